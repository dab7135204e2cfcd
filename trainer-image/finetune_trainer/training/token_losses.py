"""The loss of one token, by training.loss.type: what a step minimises in place of the plain cross-entropy.

Evaluation never uses it: eval_loss stays in nats per token, whatever was trained with. Must not sum or average, which
callers do over a whole step.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint, entry_points

import torch
from torch.nn.functional import cross_entropy

from finetune_api.spec import Loss
from finetune_trainer.errors import InvalidSpecError

TokenLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits [tokens, vocabulary] in float32 and targets [tokens] -> losses [tokens]."""
ENTRY_POINTS = "finetune_trainer.losses"
"""Group in which an installed package registers a TokenLoss under the name that jobs use."""
BUILT_IN = ("default", "focal", "label-smoothing", "class-weighted")
DEFAULT_GAMMA = 2.0
DEFAULT_SMOOTHING = 0.1
SMALLEST_MISSING = 1e-12
"""1 - p of a certain token: a power below 1 has no derivative at 0."""


def plain(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats."""
    return cross_entropy(logits, targets, reduction="none")


def focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float) -> torch.Tensor:
    """Cross-entropy times (1 - p) ** gamma: a token that is predicted well hardly counts (Lin et al., 2017)."""
    nll = plain(logits, targets)
    missing = (-torch.expm1(-nll)).clamp(min=SMALLEST_MISSING)
    return missing**gamma * nll


def label_smoothing(logits: torch.Tensor, targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy to a target that gives `smoothing` of its mass to all tokens alike."""
    return cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


def class_weighted(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropy times the weight [vocabulary] of the token that is to be predicted."""
    return plain(logits, targets) * weights.to(targets.device)[targets]


def balanced_weights(counts: torch.Tensor) -> torch.Tensor:
    """Weights [vocabulary] by which every token that occurs counts as much as every other; their mean over the rows
    that `counts` [vocabulary] was taken from is 1. Tokens that do not occur get 0."""
    present = counts > 0
    share = counts.sum() / present.sum()
    return torch.where(present, share / counts.clamp(min=1), torch.zeros(()))


def check_loss(loss: Loss) -> None:
    """Raises InvalidSpecError for a name that is not known here or a parameter that belongs to another loss."""
    if loss.gamma is not None and loss.type != "focal":
        raise InvalidSpecError(f"training.loss.gamma belongs to type: focal, not {loss.type}; remove one of the two")
    if loss.smoothing is not None and loss.type != "label-smoothing":
        raise InvalidSpecError(
            f"training.loss.smoothing belongs to type: label-smoothing, not {loss.type}; remove one of the two"
        )
    if loss.type not in BUILT_IN:
        _registered(loss.type)


def token_loss(loss: Loss, counts: Callable[[], torch.Tensor]) -> TokenLoss:
    """The function that `loss` names. `counts` gives how often each token [vocabulary] carries loss in the train rows.

    Raises InvalidSpecError for a name that nobody registered or a registration that cannot be loaded.
    """
    check_loss(loss)
    if loss.type == "default":
        return plain
    if loss.type == "focal":
        return partial(focal, gamma=DEFAULT_GAMMA if loss.gamma is None else loss.gamma)
    if loss.type == "label-smoothing":
        return partial(label_smoothing, smoothing=DEFAULT_SMOOTHING if loss.smoothing is None else loss.smoothing)
    if loss.type == "class-weighted":
        return partial(class_weighted, weights=balanced_weights(counts()))
    return _loaded(_registered(loss.type))


def _registered(name: str) -> EntryPoint:
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        known = ", ".join([*BUILT_IN, *sorted(found.names)])
        raise InvalidSpecError(
            f"training.loss.type: {name!r} is not known; choose from {known}, or install a package in the trainer "
            f"image that registers it as an entry point of group {ENTRY_POINTS}"
        )
    return found[name]


def _loaded(entry: EntryPoint) -> TokenLoss:
    try:
        function = entry.load()
    except Exception as error:  # any line of the package may fail
        raise InvalidSpecError(f"training.loss.type: {entry.name} ({entry.value}) cannot be loaded: {error}") from error

    def checked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses: torch.Tensor = function(logits, targets)
        if losses.shape != targets.shape:
            raise InvalidSpecError(
                f"training.loss.type: {entry.name} gives losses of shape {[*losses.shape]} for {len(targets)} tokens; "
                "it must give one for each token"
            )
        return losses

    return checked
