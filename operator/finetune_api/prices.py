"""What accelerator time costs at the price that a job names."""

from decimal import Decimal

from finetune_api.spec import FineTuneJobSpec

_HOUR = 3600


def accelerators(spec: FineTuneJobSpec) -> int:
    """Accelerators that one pod is paid for; a pod on CPU counts as one."""
    return spec.resources.accelerator.count if spec.resources.accelerator else 1


def price(spec: FineTuneJobSpec, accelerator_seconds: int) -> str:
    """Money for so many seconds of one accelerator, as in `1.25 USD`; empty without policy.cost."""
    cost = spec.policy.cost
    return f"{Decimal(cost.per_hour) * accelerator_seconds / _HOUR:.2f} {cost.currency}" if cost else ""
