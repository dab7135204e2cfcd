"""What the tuned model computes on held-out rows: the yardstick of every export, kept on disk.

Made once, before the tuned model is let go, so that no export is compared while two whole models are in memory.
Decides which rows and positions are compared. Must not know any export format.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from finetune_trainer.evaluating.generating import greedy_ids
from finetune_trainer.evaluating.rows import EvalRow

PROBES = 64
"""Rows compared at most."""
PROMPTS = 4
"""Rows of which an answer is generated too."""
NEW_TOKENS = 24
STORED_BYTES = 512 * 2**20
"""Most logits kept on disk."""
MOST_POSITIONS = 2048
BEYOND_WINDOW = 24
"""Tokens by which the long probe exceeds the sliding window."""
LONG_POSITIONS = 16
CHUNK = 128
"""Positions whose logits are in memory at once."""


@dataclass(frozen=True)
class Probe:
    """One sequence, and where on it logits are compared."""

    input_ids: list[int]
    positions: list[int]
    targets: list[int]
    """Next token at each position where it carries loss, else -1."""


@dataclass(frozen=True)
class Continuation:
    """A prompt and what the tuned model answers greedily."""

    prompt: list[int]
    answer: list[int]


@dataclass
class Reference:
    """Probes with their logits, and greedy answers."""

    probes: list[Probe]
    logits: np.ndarray
    """float32 [all positions of all probes, vocabulary], on disk."""
    continuations: list[Continuation] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    """Tokens that end an answer."""

    def parts(self) -> Iterator[tuple[Probe, np.ndarray]]:
        """Each probe with its logits [positions, vocabulary]."""
        start = 0
        for probe in self.probes:
            yield probe, self.logits[start : start + len(probe.positions)]
            start += len(probe.positions)


def choose_probes(rows: Sequence[EvalRow], vocabulary: int, window: int | None) -> list[Probe]:
    """Positions that predict supervised tokens, of as many rows as fit the bounds, and one probe longer than `window`.

    `vocabulary` is the number of logits of a position; `window` the sliding window in tokens, None without one.
    """
    room = min(MOST_POSITIONS, max(1, STORED_BYTES // (4 * vocabulary)))
    probes = []
    for row in rows[:PROBES]:
        positions = [i - 1 for i in row.supervised][:room]
        if positions:
            probes.append(Probe(row.input_ids, positions, [row.input_ids[i + 1] for i in positions]))
            room -= len(positions)
    return [*probes, *_long_probe(rows, window)]


def _long_probe(rows: Sequence[EvalRow], window: int | None) -> list[Probe]:
    """Rows one after the other, until the window is exceeded: shows a window that is missing or wrong in the graph."""
    if not window:
        return []
    ids = endless(rows, window)
    return [Probe(ids, [*range(len(ids) - LONG_POSITIONS, len(ids))], [-1] * LONG_POSITIONS)]


def endless(rows: Sequence[EvalRow], window: int) -> list[int]:
    """The tokens of rows one after the other, again and again, until `window` is exceeded."""
    tokens = chain.from_iterable(repeat([token for row in rows for token in row.input_ids]))
    return list(islice(tokens, window + BEYOND_WINDOW))


@torch.inference_mode()
def compute(model: PreTrainedModel, rows: Sequence[EvalRow], stops: Sequence[int], file: Path) -> Reference:
    """Run `model` on probes chosen from `rows` and keep the logits in `file`."""
    config = model.config.get_text_config()
    probes = choose_probes(rows, config.vocab_size, sliding_window(model))
    logits = np.lib.format.open_memmap(
        file, "w+", dtype=np.float32, shape=(sum(len(p.positions) for p in probes), config.vocab_size)
    )
    reference = Reference(probes, logits, _continuations(model, rows, stops), list(stops))
    for probe, part in reference.parts():
        for start, computed in torch_logits(model, probe):
            part[start : start + len(computed)] = computed
    logits.flush()
    return reference


@torch.inference_mode()
def torch_logits(model: PreTrainedModel, probe: Probe) -> Iterator[tuple[int, np.ndarray]]:
    """Logits of `model` at the probe's positions, as (first place, float32 [places, vocabulary]) chunk by chunk."""
    input_ids = torch.tensor([probe.input_ids], device=model.device)
    for start in range(0, len(probe.positions), CHUNK):
        keep = torch.tensor(probe.positions[start : start + CHUNK], device=model.device)
        output = model(input_ids=input_ids, logits_to_keep=keep, use_cache=False)
        yield start, output.logits[0].float().cpu().numpy()


def sliding_window(model: PreTrainedModel) -> int | None:
    """Window of the model's sliding layers in tokens; None when it has none below its context."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    slides = layers is None or "sliding_attention" in layers
    return int(window) if window and slides and window + BEYOND_WINDOW < config.max_position_embeddings else None


def _continuations(model: PreTrainedModel, rows: Sequence[EvalRow], stops: Sequence[int]) -> list[Continuation]:
    prompts = [row.prompt_ids or row.input_ids[: max(1, len(row.input_ids) // 2)] for row in rows[:PROMPTS]]
    return [Continuation(prompt, greedy_ids(model, [prompt], limit=NEW_TOKENS, stops=stops)[0]) for prompt in prompts]
