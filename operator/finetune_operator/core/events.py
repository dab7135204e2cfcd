"""Kubernetes Events, derived from the difference between the stored status and the new one."""

from collections.abc import Iterator

from finetune_api.conditions import ConditionType
from finetune_api.status import Condition, FineTuneJobStatus
from finetune_operator.core.actions import Event

_SILENT = (ConditionType.RECONCILING, ConditionType.STALLED)


def events_between(old: FineTuneJobStatus, new: FineTuneJobStatus) -> tuple[Event, ...]:
    """One event for each turning point: an attempt that was lost, a condition that became True or False.

    Success says it all: the conditions that became True together with it get no event of their own.
    """
    turned = [*_turned_conditions(old, new)]
    success = [c for c in turned if c.type == ConditionType.SUCCEEDED and c.status == "True"]
    return (*_lost_attempt(old, new), *map(_event, success or turned))


def _lost_attempt(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[Event]:
    lost = new.attempts.failures + new.attempts.disruptions - old.attempts.failures - old.attempts.disruptions
    if lost > 0:
        yield Event("Warning", new.attempts.last_reason, new.message or "an attempt was lost")


def _turned_conditions(old: FineTuneJobStatus, new: FineTuneJobStatus) -> Iterator[Condition]:
    before = {c.type: c for c in old.conditions}
    for condition in new.conditions:
        if condition.type not in _SILENT and _turned(before.get(condition.type), condition):
            yield condition


def _turned(old: Condition | None, new: Condition) -> bool:
    if new.status == "Unknown":
        return False
    if new.type == ConditionType.SUSPENDED and new.status == "False":
        return old is not None and old.status == "True"
    return old is None or old.status != new.status


def _event(condition: Condition) -> Event:
    if condition.type == ConditionType.SUSPENDED:
        return Event("Normal", condition.reason, condition.message)
    if condition.status == "True":
        return Event("Normal", condition.type, condition.message)
    return Event("Warning", condition.reason, condition.message)
