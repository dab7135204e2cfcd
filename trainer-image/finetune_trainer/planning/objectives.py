"""What training.objective decides of the plan: learning rates, sequences of a row, what does not go with it. Pure."""

from finetune_api.spec import FineTuneJobSpec
from finetune_api.tasks import PREFERENCE_OBJECTIVES
from finetune_trainer.errors import InvalidSpecError

Rates = tuple[float, float, float]
"""Peak learning rates of a small, a middle and a large model."""

_TOKENS: dict[str, Rates] = {
    "full": (5e-5, 2e-5, 1e-5),
    "low-rank": (5e-4, 3e-4, 2e-4),
    "adapter": (1e-2, 5e-3, 3e-3),
}
_COMPARED: dict[str, Rates] = {
    "full": (5e-6, 1e-6, 5e-7),
    "low-rank": (5e-5, 1e-5, 5e-6),
    "adapter": (1e-3, 3e-4, 1e-4),
}
_ODDS: dict[str, Rates] = {
    "full": (2e-5, 1e-5, 5e-6),
    "low-rank": (2e-4, 1e-4, 5e-5),
    "adapter": (4e-3, 2e-3, 1e-3),
}
LEARNING_RATES = {"sft": _TOKENS, "pretrain": _TOKENS, "dpo": _COMPARED, "kto": _COMPARED, "orpo": _ODDS}
"""By objective and kind of method. A low-rank update starts at zero and wants about ten times the rate of full tuning,
a single factor per channel ten times as much again; smaller models bear larger rates.

sft and pretrain: the same loss on other tokens. dpo and kto: their losses sum over the tokens of an answer, and beyond
the rates of their papers (5e-7 for 7 billion parameters) a model soon lowers the likelihood of both answers. orpo: its
gradient is that of sft with a correction, so its rates lie between (5e-6 to 8e-6 in its paper, full tuning)."""
_KINDS = {"full": "full", "adapter": "adapter"}


def learning_rates(objective: str, method: str) -> Rates:
    """Peak learning rates of `objective` with `method` (training.objective, method.type)."""
    return LEARNING_RATES[objective][_KINDS.get(method, "low-rank")]


def sequences_of_a_row(objective: str) -> int:
    """Sequences that one forward pass with gradients takes for a row: a pair is two. KTO's rows are single answers."""
    return 2 if objective in ("dpo", "orpo") else 1


def asks_reference(objective: str) -> bool:
    """Whether the untouched model is asked, once, what it thinks of each answer."""
    return objective in ("dpo", "kto")


def smallest_batch(objective: str) -> int:
    """Rows of a step at least, unless fewer are asked for: KTO estimates its divergence on them."""
    return 8 if objective == "kto" else 1


def prefers(spec: FineTuneJobSpec) -> bool:
    """Whether the objective learns from preferences."""
    return spec.training.objective in PREFERENCE_OBJECTIVES


def check_objective(spec: FineTuneJobSpec) -> None:
    """Raises InvalidSpecError for a field that does not go with training.objective."""
    objective = spec.training.objective
    if not prefers(spec):
        return
    if spec.dataset.packing is True:
        raise InvalidSpecError(
            f"dataset.packing: true does not go with training.objective: {objective}, which compares whole answers; "
            "set auto or false"
        )
    stopping = spec.training.early_stopping
    if stopping is not None and stopping.metric != "eval_loss":
        raise InvalidSpecError(
            f"training.earlyStopping.metric: {stopping.metric} is not measured with training.objective: {objective}; "
            "use eval_loss"
        )
