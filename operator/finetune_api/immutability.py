"""The rule by which the API server refuses a change of an accepted spec.

Equality of objects is the dearest thing that CEL does there (on a whole spec it takes as long as the rest of a write),
and it would be asked again at each write of the status, which cannot change the spec at all. So the rule stands at the
root, where both are seen, and looks at the spec only if `status.lastUpdateTime` says that this is no write of the
status. A status write within the same second is judged in full: slower, not wrong.
"""

from typing import Any

from finetune_api.spec import FineTuneJobSpec, PolicySpec

MUTABLE_POLICY_FIELDS = ("suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished")

_STATUS_WAS_WRITTEN = (
    "(has(self.status) && has(oldSelf.status) && has(self.status.lastUpdateTime) && "
    "has(oldSelf.status.lastUpdateTime) && self.status.lastUpdateTime != oldSelf.status.lastUpdateTime)"
)
_ADVICE = " is immutable once the job is accepted; create a new FineTuneJob to change it"


def immutability_rule() -> dict[str, Any]:
    """One entry of x-kubernetes-validations for the root of the resource; its message names the field."""
    fields = immutable_fields()
    same = " && ".join(f"({_same(field)})" for field in fields)
    first_changed = "".join(f"!({_same(field)}) ? '{field}' : " for field in fields[:-1]) + f"'{fields[-1]}'"
    return {
        "rule": f"{_STATUS_WAS_WRITTEN} || ({same})",
        "messageExpression": f"'spec.' + ({first_changed}) + '{_ADVICE}'",
        "message": f"the spec{_ADVICE}",
        "fieldPath": ".spec",
    }


def immutable_fields() -> tuple[str, ...]:
    """Paths below spec, as in `policy.retries`."""
    whole = (field.alias for name, field in FineTuneJobSpec.model_fields.items() if name != "policy")
    policy = (field.alias for field in PolicySpec.model_fields.values())
    return (*map(str, whole), *(f"policy.{name}" for name in policy if name not in MUTABLE_POLICY_FIELDS))


def _same(field: str) -> str:
    new, old = f"self.spec.{field}", f"oldSelf.spec.{field}"
    return f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"
