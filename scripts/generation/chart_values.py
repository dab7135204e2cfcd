"""The chart's values: names, defaults, limits and docs, from which values.yaml, its JSON schema and its table are made.

Settings of the operator itself are not repeated here: they come from OperatorSettings.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from finetune_operator.settings import OperatorSettings

FreeForm = dict[str, Any]
Texts = dict[str, str]
PullPolicy = Literal["Always", "IfNotPresent", "Never"]
Name = Annotated[str, Field(max_length=253, pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Namespace = Annotated[str, Field(max_length=63, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]

SET_BY_THE_CHART = (
    "trainer_image",
    "image_pull_policy",
    "image_pull_secrets",
    "operator_namespace",
    "namespaces",
    "http_host",
    "http_port",
    "leader_election",
    "lease_name",
    "identity",
)
"""Settings of the operator that follow from other values or from the release."""


class _Part(BaseModel):
    """Base of all parts: camelCase, closed."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class OperatorImage(_Part):
    """Image of the operator."""

    repository: Annotated[str, Field(min_length=1)] = "finetune-operator"
    """Registry and name."""
    tag: str = ""
    """Tag; the chart's appVersion when empty."""
    digest: Annotated[str, Field(pattern="^(sha256:[a-f0-9]{64})?$")] = ""
    """Digest, as in sha256:...; wins over the tag."""
    pull_policy: PullPolicy = "IfNotPresent"
    """When the image is pulled."""


class TrainerImage(_Part):
    """Image of every stage pod."""

    repository: Annotated[str, Field(min_length=1)] = "finetune-trainer"
    """Registry and name."""
    tag: str = ""
    """Tag; the chart's appVersion when empty."""
    digest: Annotated[str, Field(pattern="^(sha256:[a-f0-9]{64})?$")] = ""
    """Digest, as in sha256:...; wins over the tag."""
    pull_policy: PullPolicy = "IfNotPresent"
    """When the image is pulled."""
    pull_secrets: list[Name] = []
    """Names of pull secrets in the namespace of each FineTuneJob."""


class Trainer(_Part):
    """What the stage pods run."""

    image: TrainerImage = TrainerImage()
    """Image of every stage pod."""


class Crds(_Part):
    """The CustomResourceDefinition."""

    enabled: bool = True
    """Install and upgrade the CRD with the release."""
    keep: bool = True
    """Keep the CRD, and with it every FineTuneJob, when the release is uninstalled."""


class Rbac(_Part):
    """Roles."""

    create: bool = True
    """Create what the operator needs: a ClusterRole, or a Role in each of `namespaces`."""
    aggregate: bool = True
    """Create ClusterRoles for people, which the built-in roles admin, edit and view take up."""


class ServiceAccount(_Part):
    """Account of the operator."""

    create: bool = True
    """Create it."""
    name: str = ""
    """Name; that of the release when empty."""
    annotations: Texts = {}
    """Annotations."""


class PodDisruptionBudget(_Part):
    """Keeps a replica during drains; only made for more than one replica."""

    enabled: bool = True
    """Create it."""
    max_unavailable: int | str = 1
    """Replicas that a drain may take at once."""


class NetworkPolicy(_Part):
    """Who reaches the operator and whom it reaches."""

    enabled: bool = True
    """Admit connections to the port of probes and metrics only."""
    peers: list[FreeForm] = []
    """NetworkPolicyPeers that may read metrics; empty admits all."""
    egress: list[FreeForm] = []
    """Egress rules; empty leaves egress open. The operator needs the API server and port 9464 of stage pods."""


class Service(_Part):
    """Service in front of /metrics."""

    enabled: bool = True
    """Create it."""
    annotations: Texts = {}
    """Annotations."""


class Monitor(_Part):
    """An object of the Prometheus operator."""

    enabled: bool = False
    """Create it; needs the Prometheus operator's CRDs."""
    labels: Texts = {}
    """Labels by which Prometheus selects it."""
    interval: Annotated[str, Field(pattern="^[0-9]+(ms|s|m|h)$")] = "30s"
    """Time between scrapes."""


class ChartValues(_Part):
    """All values."""

    image: OperatorImage = OperatorImage()
    """Image of the operator."""
    trainer: Trainer = Trainer()
    """What the stage pods run."""
    namespaces: list[Namespace] = []
    """Namespaces whose FineTuneJobs are served, with a Role in each; empty serves all of them with a ClusterRole."""
    settings: FreeForm = {"progressAccess": "direct"}
    """Settings of the operator; see the table below. progressAccess auto or proxy also grants pods/proxy."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Replicas of the operator; one works, the others wait to take over."""
    crds: Crds = Crds()
    """The CustomResourceDefinition."""
    rbac: Rbac = Rbac()
    """Roles."""
    service_account: ServiceAccount = ServiceAccount()
    """Account of the operator."""
    image_pull_secrets: list[FreeForm] = []
    """Pull secrets of the operator's own pod, as in [{name: registry}]."""
    resources: FreeForm = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
    """Resources of the operator."""
    pod_labels: Texts = {}
    """Further labels of the operator's pods."""
    pod_annotations: Texts = {}
    """Annotations of the operator's pods."""
    node_selector: Texts = {}
    """Labels that the operator's node must have."""
    tolerations: list[FreeForm] = []
    """Taints that the operator's pods tolerate."""
    affinity: FreeForm = {}
    """Affinity of the operator's pods."""
    topology_spread_constraints: list[FreeForm] = []
    """Spread of the operator's pods; several replicas prefer different nodes when empty."""
    priority_class_name: str = ""
    """PriorityClass of the operator's pods."""
    pod_disruption_budget: PodDisruptionBudget = PodDisruptionBudget()
    """Keeps a replica during drains; only made for more than one replica."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """Who reaches the operator and whom it reaches."""
    service: Service = Service()
    """Service in front of /metrics."""
    service_monitor: Monitor = Monitor()
    """ServiceMonitor of the operator's metrics."""
    pod_monitor: Monitor = Monitor()
    """PodMonitor of the stage pods' metrics; settings.metricsNamespaces must name Prometheus' namespace."""
    name_override: str = ""
    """Name of the chart in names and labels."""
    fullname_override: str = ""
    """Name of all objects, in place of the release's."""


def json_schema() -> dict[str, Any]:
    """values.schema.json."""
    schema = ChartValues.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["global"] = {"type": "object", "description": "Values of a parent chart; not used."}
    schema["properties"]["settings"] = _settings_schema() | {
        "description": schema["properties"]["settings"]["description"]
    }
    return schema


def settings_properties() -> dict[str, dict[str, Any]]:
    """Settings that `settings` may hold, in camelCase, each with its JSON schema."""
    properties = OperatorSettings.model_json_schema(by_alias=False)["properties"]
    return {to_camel(name): field for name, field in properties.items() if name not in SET_BY_THE_CHART}


def _settings_schema() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": settings_properties()}
