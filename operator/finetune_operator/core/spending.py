"""What a job has used of its accelerators, what that costs, and when its budget is spent.

A pod is paid for from its start on a node to its end, whatever it does meanwhile; queueing, suspension and preparation
cost nothing.
"""

from datetime import datetime
from decimal import Decimal

from finetune_api.conditions import Reason
from finetune_api.prices import accelerators, price
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import CostReport, FineTuneJobStatus, PodTime, Stage
from finetune_operator.core import pod_status
from finetune_operator.core.checks import Failure
from finetune_operator.core.observed import Manifest, Observed
from finetune_operator.core.stages import pods_of
from finetune_operator.core.timestamps import seconds_between

PAID_STAGES = (Stage.TRAIN, Stage.EVALUATE)
REMEMBERED_PODS = 16
"""Older pods are taken to have ended."""
_HOUR = 3600


def spent(observed: Observed, spec: FineTuneJobSpec, status: FineTuneJobStatus, now: datetime) -> CostReport | None:
    """All that was used until `now`; None before the first paid pod has started.

    Pods that are still to be seen are measured anew each time, so a plan that is made twice pays once; pods that have
    gone since stay in the sum as they were seen last.
    """
    before = status.cost or CostReport(accelerator_seconds=0)
    times = _times(observed, now)[-REMEMBERED_PODS:]
    visible = {time.pod: time.seconds for time in times}
    if not visible and status.cost is None:
        return None
    count = accelerators(spec)
    gone = before.accelerator_seconds - count * sum(t.seconds for t in before.pods if t.pod in visible)
    total = gone + count * sum(visible.values())
    return CostReport(accelerator_seconds=total, amount=price(spec, total), pods=times)


def _times(observed: Observed, now: datetime) -> list[PodTime]:
    pods = [pod for stage in PAID_STAGES for pod in pods_of(observed, stage)]
    started = sorted((p for p in pods if _started_at(p)), key=lambda p: (_started_at(p), p["metadata"]["name"]))
    return [PodTime(pod=p["metadata"]["name"], seconds=_seconds(p, now)) for p in started]


def _started_at(pod: Manifest) -> str:
    return (pod.get("status") or {}).get("startTime") or ""


def _seconds(pod: Manifest, now: datetime) -> int:
    ended_at = pod_status.terminated_state(pod).get("finishedAt")
    until_now = seconds_between(_started_at(pod), now)
    return max(0, int(until_now - seconds_between(ended_at, now) if ended_at else until_now))


def overspent(spec: FineTuneJobSpec, used: CostReport | None) -> Failure | None:
    """Whether the budget is spent."""
    left = seconds_to_budget(spec, used)
    if left is None or left > 0 or used is None or spec.policy.cost is None:
        return None
    budget = f"{spec.policy.cost.budget} {spec.policy.cost.currency}"
    return Failure(
        Reason.BUDGET_EXCEEDED,
        f"the job has cost {used.amount} of policy.cost.budget: {budget}; its pod saves a checkpoint and stops",
    )


def seconds_to_budget(spec: FineTuneJobSpec, used: CostReport | None) -> float | None:
    """Seconds of running that the budget still pays; None without a budget or while nothing is paid for."""
    cost = spec.policy.cost
    if used is None or cost is None or cost.budget is None or not Decimal(cost.per_hour):
        return None
    allowed = Decimal(cost.budget) / Decimal(cost.per_hour) * _HOUR
    return float(allowed - used.accelerator_seconds) / accelerators(spec)
