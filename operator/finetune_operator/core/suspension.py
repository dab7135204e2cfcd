"""What keeps a job from running, and the clock that stands still meanwhile."""

from datetime import datetime

from finetune_api.conditions import ConditionType, Reason
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.core import status as statuses
from finetune_operator.core.timestamps import seconds_between, stamp


def reason_of(status: FineTuneJobStatus) -> Reason | None:
    """Why the job is held; None while it may run."""
    condition = statuses.get_condition(status, ConditionType.SUSPENDED)
    return Reason(condition.reason) if condition is not None and condition.status == "True" else None


def held(status: FineTuneJobStatus, reason: Reason, message: str, now: datetime) -> FineTuneJobStatus:
    """`status` of a job that waits for somebody's permission; its active time stands still."""
    status = statuses.with_condition(status, ConditionType.SUSPENDED, "True", reason, message, now)
    update = {"phase": Phase.SUSPENDED, "message": message[: statuses.MESSAGE_LIMIT]}
    return with_stopped_clock(status, now).model_copy(update=update)


def released(status: FineTuneJobStatus, reason: Reason, message: str, now: datetime) -> FineTuneJobStatus:
    """`status` of a job that may run again."""
    status = statuses.with_condition(status, ConditionType.SUSPENDED, "False", reason, message, now)
    update = {"phase": Phase.PENDING, "message": message, "active_since": status.active_since or stamp(now)}
    return status.model_copy(update=update)


def with_stopped_clock(status: FineTuneJobStatus, now: datetime) -> FineTuneJobStatus:
    """`status` with the active time until now added up."""
    since = status.active_since
    seconds = status.active_seconds + (int(seconds_between(since, now)) if since else 0)
    return status.model_copy(update={"active_seconds": seconds, "active_since": None})
