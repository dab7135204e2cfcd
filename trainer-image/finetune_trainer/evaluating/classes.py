"""Which classes a model tells on held-out rows, and how likely it finds the right ones. Must not judge.

Of a head: its logits. Of an untouched language model: how likely it goes on with the name of each label after the text,
per token of the name, so that long names have the same chance. Of no model at all: how frequent each tag is.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.evaluating.losses import OnRows, padded
from finetune_trainer.evaluating.rows import TOKENS_PER_BATCH, EvalRow, batches
from finetune_trainer.models.heads import class_logits

QUESTION = "\nLabel:"
"""What stands between a text and the name of its label when a language model is asked."""


@dataclass(frozen=True)
class Told:
    """What was told on some rows."""

    classes: list[list[int]] = field(default_factory=list)
    """The most likely class at each place of each row."""
    losses: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    """Summed negative log-likelihood of the right classes in nats, and their number, float64 [rows, 2]."""


def told_by_head(model: PreTrainedModel, rows: Sequence[EvalRow], on_rows: OnRows = lambda _: None) -> Told:
    """What the head of `model` tells; `on_rows` hears how many more rows are done."""
    logits: list[np.ndarray] = [np.zeros((0, 0))] * len(rows)
    for batch in batches([len(row.input_ids) for row in rows]):
        chosen = [rows[i] for i in batch]
        for i, part in zip(batch, _logits_of(model, chosen), strict=True):
            logits[i] = part
        on_rows(len(batch))
    return _told(logits, rows)


@torch.inference_mode()
def _logits_of(model: PreTrainedModel, rows: list[EvalRow]) -> list[np.ndarray]:
    """Float32 [places, classes] of each row."""
    found = class_logits(model, *padded(rows, model.device)).cpu().numpy()
    ends = np.cumsum([sum(row.completion_mask) for row in rows])
    return np.split(found, ends[:-1])


def told_by_words(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[EvalRow],
    names: Sequence[str],
    on_rows: OnRows = lambda _: None,
) -> Told:
    """What a causal language model tells when it is asked for the label of each text; `names` are the labels."""
    asked = _ids(tokenizer, QUESTION)
    continuations = [_name_ids(tokenizer, name, asked) for name in names]
    room = model.config.max_position_embeddings - len(asked) - max(map(len, continuations))
    scores = []
    for row in rows:
        prompt = [*row.input_ids[-room:], *asked]
        scores.append(_likelihoods(model, prompt, continuations)[None])
        on_rows(1)
    return _told(scores, rows)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _name_ids(tokenizer: PreTrainedTokenizerBase, name: str, asked: list[int]) -> list[int]:
    """Tokens of `name` after the question, with the space before it."""
    whole = _ids(tokenizer, f"{QUESTION} {name}")
    return whole[len(asked) :] if whole[: len(asked)] == asked else _ids(tokenizer, f" {name}")


@torch.inference_mode()
def _likelihoods(model: PreTrainedModel, prompt: list[int], continuations: Sequence[list[int]]) -> np.ndarray:
    """Mean log-likelihood of a token of each continuation after `prompt`, float64 [continuations].

    The prompt goes through the model once; what follows it starts from its key-value cache.
    """
    output = model(input_ids=_tensor([prompt], model), use_cache=True, logits_to_keep=1)
    first = output.logits[0, -1].double().log_softmax(-1).cpu()
    sums = np.array([float(first[ids[0]]) for ids in continuations])
    for places in _chunks(continuations, len(prompt)):
        cache = copy.deepcopy(output.past_key_values)
        cache.batch_repeat_interleave(len(places))
        sums[places] += _following(model, [continuations[i] for i in places], cache)
    return sums / np.array([len(ids) for ids in continuations])


def _chunks(continuations: Sequence[list[int]], prompt: int) -> Iterator[list[int]]:
    """Places of continuations of more than one token, as many at once as a batch may have tokens."""
    longer = [i for i, ids in enumerate(continuations) if len(ids) > 1]
    size = max(1, TOKENS_PER_BATCH // prompt)
    return (longer[start : start + size] for start in range(0, len(longer), size))


def _following(model: PreTrainedModel, continuations: list[list[int]], cache: Any) -> np.ndarray:  # noqa: ANN401
    """Summed log-likelihood of all tokens but the first of each continuation of a prompt in `cache`."""
    longest = max(map(len, continuations))
    ids = [[*tokens, *[0] * (longest - len(tokens))] for tokens in continuations]
    fed = _tensor([row[:-1] for row in ids], model)
    logits = model(input_ids=fed, past_key_values=cache, use_cache=True).logits
    targets = _tensor([row[1:] for row in ids], model)
    found = logits.double().log_softmax(-1).gather(-1, targets[..., None])[..., 0].cpu().numpy()
    known = np.array([[place < len(tokens) for place in range(1, longest)] for tokens in continuations])
    sums: np.ndarray = (found * known).sum(axis=1)
    return sums


def _tensor(ids: list[list[int]], model: PreTrainedModel) -> torch.Tensor:
    return torch.tensor(ids, device=model.device)


def told_by_frequency(counts: np.ndarray, rows: Sequence[EvalRow]) -> Told:
    """What follows from how often each class stands in the train rows, int64 [classes], and from nothing else."""
    logits = np.log(counts.astype(np.float64))
    return _told([np.tile(logits, (len(row.classes), 1)) for row in rows], rows)


def _told(logits: Sequence[np.ndarray], rows: Sequence[EvalRow]) -> Told:
    losses = np.zeros((len(rows), 2))
    for i, (row, found) in enumerate(zip(rows, logits, strict=True)):
        exact: np.ndarray = found.astype(np.float64)
        shifted = exact - exact.max(axis=1, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        losses[i] = (-log_probs[np.arange(len(row.classes)), row.classes].sum(), len(row.classes))
    return Told([found.argmax(axis=1).tolist() for found in logits], losses)
