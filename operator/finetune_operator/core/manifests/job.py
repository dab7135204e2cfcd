"""The batch/v1 Job of one attempt at one stage. Created once and never applied again: queue managers edit it."""

from collections.abc import Sequence
from typing import Any

from finetune_api import names
from finetune_api.contract import JobRef, StageRequest
from finetune_api.sources import sources
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Ancestor, Plan, Stage
from finetune_operator.core import failures, quantities, queueing
from finetune_operator.core.configuration import Configuration
from finetune_operator.core.identity import child_metadata, child_name, labels, uid_of
from finetune_operator.core.manifests.sizing import memory_of
from finetune_operator.core.manifests.storage import workspace_claim_name
from finetune_operator.core.observed import Manifest

USER = 65532
"""Non-root user of the images."""

_ACCELERATED = (Stage.TRAIN, Stage.EVALUATE)


def stage_job(
    job: Manifest,
    spec: FineTuneJobSpec,
    stage: Stage,
    attempt: int,
    plan: Plan | None,
    configuration: Configuration,
    lineage: Sequence[Ancestor] = (),
) -> Manifest:
    """The Job. It never retries by itself (backoffLimit 0); only disruptions give its pod a replacement.

    For a queue it is created suspended, so that nothing runs before the queue has seen it.
    """
    memory = memory_of(stage, spec, plan, configuration)
    request = stage_request(job, spec, stage, attempt, lineage)
    metadata = child_metadata(job, child_name(job, stage, attempt), stage, attempt)
    metadata["labels"] |= queueing.passed_on(job["metadata"].get("labels"))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            **({"suspend": True} if queueing.queue_of(job) else {}),
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {
                    "labels": labels(job, stage, attempt) | configuration.stage_labels,
                    "annotations": {
                        **queueing.passed_on(job["metadata"].get("annotations")),
                        names.ANNOTATION_REQUEST: request.model_dump_json(by_alias=True, exclude_none=True),
                    },
                },
                "spec": _pod_spec(job, spec, stage, memory, configuration),
            },
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    """Disruptions are nobody's failure; a final exit code is named in the Job's condition, which outlives the pod."""
    codes = {"containerName": names.STAGE_CONTAINER, "operator": "In", "values": sorted(failures.FINAL_EXIT_CODES)}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": codes},
    ]


def stage_request(
    job: Manifest, spec: FineTuneJobSpec, stage: Stage, attempt: int, lineage: Sequence[Ancestor] = ()
) -> StageRequest:
    """What the pod is told."""
    metadata = job["metadata"]
    return StageRequest(
        job=JobRef(namespace=metadata["namespace"], name=metadata["name"], uid=uid_of(job)),
        stage=stage,
        attempt=attempt,
        spec=spec,
        memory_limit_bytes=int(quantities.number(spec.resources.memory)),
        cpu_limit=quantities.number(spec.resources.cpu),
        lineage=[*lineage] or None,
    )


def _pod_spec(
    job: Manifest, spec: FineTuneJobSpec, stage: Stage, memory: str, configuration: Configuration
) -> dict[str, Any]:
    mounts, volumes = _volumes(job, spec, stage)
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": configuration.grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, stage, memory, mounts, configuration)],
        "volumes": volumes,
    }
    return pod | _placement(spec, configuration)


def _placement(spec: FineTuneJobSpec, configuration: Configuration) -> dict[str, Any]:
    resources = spec.resources
    placement: dict[str, Any] = {
        "nodeSelector": dict(resources.node_selector),
        "tolerations": [_toleration(t.to_json()) for t in resources.tolerations],
        "priorityClassName": resources.priority_class_name,
        "imagePullSecrets": [{"name": name} for name in configuration.image_pull_secrets],
    }
    return {key: value for key, value in placement.items() if value}


def _toleration(toleration: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in toleration.items() if value}


def _container(
    spec: FineTuneJobSpec, stage: Stage, memory: str, mounts: list[dict[str, Any]], configuration: Configuration
) -> dict[str, Any]:
    return {
        "name": names.STAGE_CONTAINER,
        "image": configuration.trainer_image,
        "imagePullPolicy": configuration.image_pull_policy,
        "args": [stage, "--request", names.REQUEST_PATH],
        "env": [{"name": name, "value": value} for name, value in sorted(configuration.stage_env.items())],
        "envFrom": _credentials(spec, stage),
        "ports": [{"name": "progress", "containerPort": names.PROGRESS_PORT, "protocol": "TCP"}],
        "resources": _resources(spec, stage, memory),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": names.TERMINATION_LOG_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _resources(spec: FineTuneJobSpec, stage: Stage, memory: str) -> dict[str, Any]:
    requests = {"cpu": spec.resources.cpu, "memory": memory}
    limits = {"memory": memory}
    accelerator = spec.resources.accelerator
    if accelerator and stage in _ACCELERATED:
        requests[accelerator.resource] = limits[accelerator.resource] = str(accelerator.count)
    return {"requests": requests, "limits": limits}


def _credentials(spec: FineTuneJobSpec, stage: Stage) -> list[dict[str, Any]]:
    """Secrets of sources for prepare, those of tracking servers for the stages that talk to them, and the destination's
    for the stages that look at it or write to it."""
    if stage is Stage.PREPARE:
        secrets = [s.credentials.secret_ref for s in sources(spec).values() if s.credentials]
    else:
        servers = (spec.reporting.mlflow, spec.reporting.wandb)
        secrets = [s.secret_ref for s in servers if s and s.secret_ref]
    variables: list[dict[str, Any]] = [{"secretRef": {"name": name}} for name in dict.fromkeys(secrets)]
    destination = spec.output.credentials
    if destination and stage in (Stage.PREPARE, Stage.EXPORT):
        named = {"prefix": names.OUTPUT_ENV_PREFIX, "secretRef": {"name": destination.secret_ref}}
        variables.append(named)
    return variables


def _volumes(job: Manifest, spec: FineTuneJobSpec, stage: Stage) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    request = {"path": "request.json", "fieldRef": {"fieldPath": f"metadata.annotations['{names.ANNOTATION_REQUEST}']"}}
    volumes: list[dict[str, Any]] = [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": workspace_claim_name(job, spec)}},
        {"name": "request", "downwardAPI": {"items": [request]}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "workspace", "mountPath": names.WORKSPACE_PATH},
        {"name": "request", "mountPath": names.REQUEST_PATH.rpartition("/")[0], "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    for i, (claim, writable) in enumerate(sorted(_claims(spec, stage).items())):
        volumes.append({"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": f"claim-{i}", "mountPath": f"{names.CLAIMS_PATH}/{claim}", "readOnly": not writable})
    return mounts, volumes


def _claims(spec: FineTuneJobSpec, stage: Stage) -> dict[str, bool]:
    """Claims that a stage mounts, and whether it writes to them.

    All that is read is copied or tokenised in prepare, but the model, which the workspace only links to. The
    destination is looked at in prepare, and written in export only.
    """
    read = [source.source for source in sources(spec).values()] if stage is Stage.PREPARE else [spec.model.source]
    claims = {_claim(uri): False for uri in read if uri.startswith("pvc://")}
    destination = spec.output.destination or ""
    if stage in (Stage.PREPARE, Stage.EXPORT) and destination.startswith("pvc://"):
        claims[_claim(destination)] = stage is Stage.EXPORT
    return claims


def _claim(uri: str) -> str:
    return uri.removeprefix("pvc://").partition("/")[0]
