"""Memory of each stage's pod: training gets what the user asked for, the others what the plan shows that they need."""

from finetune_api.sizing import estimate_exports_bytes
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Plan, Stage
from finetune_operator.core import quantities
from finetune_operator.core.configuration import Configuration


def memory_of(stage: Stage, spec: FineTuneJobSpec, plan: Plan | None, configuration: Configuration) -> str:
    """Memory request and limit as a quantity."""
    if stage is Stage.PREPARE:
        return configuration.prepare_memory
    if stage is Stage.EXPORT and plan is not None:
        exports = [(export.format, export.precision) for export in plan.exports]
        return quantities.mebibytes(estimate_exports_bytes(plan.model.parameters, exports))
    return spec.resources.memory
