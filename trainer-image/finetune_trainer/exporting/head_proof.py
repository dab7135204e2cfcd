"""What a tuned head tells on held-out rows, as the yardstick of every export, and how an export is asked.

The yardstick is computed where the rows say that a class is told. An export is asked as an application asks it, with
token ids and nothing else, so the comparison also shows that both mean the same token.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from finetune_api.spec import Export
from finetune_trainer.errors import ParityError
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.exporting.head_exporter import GRAPH
from finetune_trainer.exporting.reference import (
    LONG_POSITIONS,
    MOST_POSITIONS,
    PROBES,
    Probe,
    Reference,
    endless,
    sliding_window,
)
from finetune_trainer.models.heads import Head, class_logits

PADDING = 7
"""Tokens of padding that must change nothing."""
PADDED_GAP = 1e-3
"""fp32: how much a logit may change with padding; other sums in another order differ by less."""

Logits = Iterator[tuple[int, np.ndarray]]


def head_probes(rows: Sequence[EvalRow], pooled: bool, window: int | None) -> list[Probe]:
    """Rows with the places where a class is told, and one sequence longer than `window`, where that is not known."""
    probes, room = [], MOST_POSITIONS
    for row in rows[:PROBES]:
        places = [i for i, bit in enumerate(row.completion_mask) if bit][:room]
        if places:
            probes.append(Probe(row.input_ids, places, row.classes[: len(places)]))
            room -= len(places)
    if window:
        ids = endless(rows, window)
        places = [*range(len(ids) - (1 if pooled else LONG_POSITIONS), len(ids))]
        probes.append(Probe(ids, places, [-1] * len(places)))
    return probes


@torch.inference_mode()
def head_reference(model: PreTrainedModel, head: Head, rows: Sequence[EvalRow]) -> Reference:
    """Logits of the tuned `model` at the places that rows name."""
    probes = head_probes(rows, head.task == "classification", sliding_window(model))
    return Reference(probes, np.concatenate([_told(model, probe) for probe in probes]))


def _told(model: PreTrainedModel, probe: Probe) -> np.ndarray:
    ids = torch.tensor([probe.input_ids], device=model.device)
    told = torch.zeros_like(ids, dtype=torch.bool)
    told[0, probe.positions] = True
    found: np.ndarray = class_logits(model, ids, torch.ones_like(ids), told).cpu().numpy()
    return found


@torch.inference_mode()
def own_logits(model: PreTrainedModel, probe: Probe) -> Logits:
    """What the model's own forward gives for the probe, as (0, float32 [places, classes])."""
    ids = torch.tensor([probe.input_ids], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float().cpu().numpy()
    yield 0, _at(logits, probe)


def _at(logits: np.ndarray, probe: Probe) -> np.ndarray:
    """Of logits [classes] of a text, or [tokens, classes] of words: those at the probe's places."""
    return logits[None] if logits.ndim == 1 else logits[probe.positions]


class HeadOnnxModel:
    """The folder of an ONNX model with a head, opened with `threads` threads."""

    def __init__(self, folder: Path, threads: int, pad_token_id: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
        self._pad = pad_token_id

    def __call__(self, probe: Probe) -> Logits:
        """Logits of the probe alone, as (0, float32 [places, classes])."""
        yield 0, _at(self._run([probe])[0], probe)

    def together(self, probes: Sequence[Probe]) -> list[np.ndarray]:
        """Logits [places, classes] of each probe in one batch, with PADDING tokens more than the longest has."""
        return [_at(logits, probe) for logits, probe in zip(self._run(probes, PADDING), probes, strict=True)]

    def _run(self, probes: Sequence[Probe], more: int = 0) -> Any:  # noqa: ANN401 - float32 [rows, ...]
        shape = (len(probes), max(len(probe.input_ids) for probe in probes) + more)
        ids: np.ndarray = np.full(shape, self._pad, dtype=np.int64)
        mask: np.ndarray = np.zeros(shape, dtype=np.int64)
        for i, probe in enumerate(probes):
            ids[i, : len(probe.input_ids)] = probe.input_ids
            mask[i, : len(probe.input_ids)] = 1
        return self._session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def prove_padding(export: Export, model: HeadOnnxModel, reference: Reference) -> float:
    """Largest change of a logit when rows share a batch and are padded. Raises ParityError for more than rounding."""
    probes = reference.probes[:4]
    alone = [part for probe in probes for _, part in model(probe)]
    worst = max(float(np.abs(a - b).max()) for a, b in zip(alone, model.together(probes), strict=True))
    if not worst <= PADDED_GAP:
        raise ParityError(
            f"export {export.name} (onnx {export.precision or 'fp32'}) gives other logits when rows are padded: they "
            f"differ by {worst:.3g}. It is not published; report this as a bug"
        )
    return worst
