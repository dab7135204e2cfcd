"""What a pod says about itself. Whether its attempt is lost, and why, is judged in `failures`."""

from typing import Any

from finetune_api import names
from finetune_api.conditions import Reason
from finetune_operator.core.observed import Manifest, condition


def newest(pods: tuple[Manifest, ...]) -> Manifest | None:
    """The pod that was created last."""
    return max(pods, key=lambda p: (p["metadata"].get("creationTimestamp") or "", p["metadata"]["name"]), default=None)


def is_live(pod: Manifest) -> bool:
    """Whether the pod may still run or write."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def stage_container(pod: Manifest) -> dict[str, Any]:
    """Status of the stage's container."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return next((s for s in statuses if is_stage(s)), {})


def is_stage(container: Manifest) -> bool:
    """Whether a container of a pod, or its status, is the stage's."""
    return bool(container.get("name") == names.STAGE_CONTAINER)


def terminated_state(pod: Manifest) -> dict[str, Any]:
    """The terminated state of the stage's container; empty while it runs or when the pod never started it."""
    return (stage_container(pod).get("state") or {}).get("terminated") or {}


def disrupted(pod: Manifest) -> bool:
    """Whether the cluster, not the program, ended the pod."""
    reason = (pod.get("status") or {}).get("reason")
    return _is_disruption_target(pod) or reason in ("Evicted", "Preempting", "NodeLost", "Shutdown", "Terminated")


def replaced(pod: Manifest) -> bool:
    """Whether the pod has ended and the Job controller, by the Job's podFailurePolicy, puts another in its place."""
    return _is_disruption_target(pod) and not is_live(pod)


def _is_disruption_target(pod: Manifest) -> bool:
    return condition(pod, "DisruptionTarget") is not None


def waiting_for(pod: Manifest) -> tuple[Reason, str] | None:
    """Why a pod does not start, when it is more than a matter of seconds."""
    waiting = _waiting_state(pod)
    reason = waiting.get("reason") or ""
    message = waiting.get("message") or reason
    if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
        return Reason.IMAGE_UNAVAILABLE, f"the trainer image cannot be pulled: {message}"
    if reason and reason != "ContainerCreating" and reason != "PodInitializing":
        return Reason.WAITING, f"the pod cannot start: {reason}: {message}"
    conditions = (pod.get("status") or {}).get("conditions") or []
    unscheduled = next((c for c in conditions if c.get("type") == "PodScheduled" and c.get("status") == "False"), None)
    if unscheduled:
        return Reason.UNSCHEDULABLE, f"no node can take the pod: {unscheduled.get('message', '')}"
    return None


def _waiting_state(pod: Manifest) -> dict[str, Any]:
    """The waiting state of the stage's container; empty when it does not wait."""
    return (stage_container(pod).get("state") or {}).get("waiting") or {}
