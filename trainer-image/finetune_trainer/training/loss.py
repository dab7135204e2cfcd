# ruff: noqa: ANN401 - model and outputs are of any family, and PEFT and accelerate wrap them
"""The loss of the supervised tokens, and of nothing else.

Decides at which positions logits are made. The model's own forward makes them, with whatever scaling or capping its
family has. Must not average: callers know over what.
"""

from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_trainer.training.rows import IGNORED
from finetune_trainer.training.token_losses import TokenLoss, plain

LOGITS_BYTES = 512 * 2**20
"""Most float32 logits of one forward pass that are made whole; beyond, TRL's head computes them in tiles."""


def supervised_loss(
    model: Any, inputs: dict[str, Any], labels: torch.Tensor, of_tokens: TokenLoss = plain
) -> torch.Tensor:
    """Summed loss, a scalar, over labels [rows, length] that are not IGNORED, shifted by one; in nats when plain.

    Only supervised positions reach the language-model head: on CPU the head of a small model is a fifth of the work.
    """
    return _of_supervised(model, inputs, labels, of_tokens).sum()


def row_log_likelihoods(model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> torch.Tensor:
    """Summed log-likelihood [rows] in nats of each row's labels [rows, length] that are not IGNORED, shifted by one."""
    losses = _of_supervised(model, inputs, labels, plain)
    rows = (labels[:, 1:] != IGNORED).nonzero()[:, 0]
    return -torch.zeros(len(labels), device=losses.device).index_add(0, rows, losses)


def _of_supervised(model: Any, inputs: dict[str, Any], labels: torch.Tensor, of_tokens: TokenLoss) -> torch.Tensor:
    """Loss of each supervised token, row by row."""
    targets = labels[:, 1:]
    mask = targets != IGNORED
    handle = _backbone(model).register_forward_hook(lambda _module, _args, output: _select(output, mask))
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return of_tokens(logits[0].float(), targets[mask])


def makes_logits_whole(model: Any, labels: torch.Tensor) -> bool:
    """Whether `supervised_loss` fits this batch. An accelerator has kernels for tiles, which are as fast."""
    if labels.device.type != "cpu":
        return False
    supervised = int((labels[:, 1:] != IGNORED).sum())
    return supervised * int(model.config.get_text_config().vocab_size) * 4 <= LOGITS_BYTES


def _backbone(model: Any) -> torch.nn.Module:
    whole: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    return whole.base_model


def _select(output: Any, mask: torch.Tensor) -> Any:
    """Hidden states [rows, length, width] -> [1, supervised, width]."""
    output.last_hidden_state = output.last_hidden_state[:, :-1][mask][None]
    return output
