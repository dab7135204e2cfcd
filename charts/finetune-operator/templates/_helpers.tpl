{{- define "finetune-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* The name of all objects: the release's when it says what it is, else the release's and the chart's. */}}
{{- define "finetune-operator.fullname" -}}
{{- $name := include "finetune-operator.name" . }}
{{- $default := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $default .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: finetune-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "finetune-operator.serviceAccountName" -}}
{{- default (ternary (include "finetune-operator.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- /* The reference of an image. Takes the image's values and the tag to use when they name neither tag nor digest. */}}
{{- define "finetune-operator.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) }}
{{- end }}
{{- end }}

{{- /* A setting as the operator reads it from its environment: lists with commas, mappings as JSON, whole numbers without exponent. */}}
{{- define "finetune-operator.setting" -}}
{{- if kindIs "slice" . }}
{{- join "," . }}
{{- else if kindIs "map" . }}
{{- toJson . }}
{{- else if and (kindIs "float64" .) (eq (floor .) (float64 .)) }}
{{- int64 . }}
{{- else }}
{{- toString . }}
{{- end }}
{{- end }}

{{- define "finetune-operator.environment" -}}
- name: FINETUNE_TRAINER_IMAGE
  value: {{ include "finetune-operator.image" (dict "image" .Values.trainer.image "tag" .Chart.AppVersion) | quote }}
- name: FINETUNE_IMAGE_PULL_POLICY
  value: {{ .Values.trainer.image.pullPolicy | quote }}
{{- with .Values.trainer.image.pullSecrets }}
- name: FINETUNE_IMAGE_PULL_SECRETS
  value: {{ join "," . | quote }}
{{- end }}
- name: FINETUNE_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: FINETUNE_IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: FINETUNE_LEASE_NAME
  value: {{ include "finetune-operator.fullname" . | quote }}
- name: FINETUNE_HTTP_PORT
  value: "8080"
{{- with .Values.namespaces }}
- name: FINETUNE_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: FINETUNE_{{ snakecase $name | upper }}
  value: {{ include "finetune-operator.setting" $value | quote }}
{{- end }}
{{- end }}
