"""Answers to other prompts, by which KTO estimates how far the model has moved from its reference.

Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306, section 3.2) compares each reward with the
divergence of model and reference, estimated on prompts with answers that do not belong to them. Which answer goes with
which prompt is decided here, once, because the reference's log-likelihoods of these sequences are computed beforehand.
"""

from collections.abc import Sequence
from typing import Any

import numpy

from finetune_trainer.data.storage import PAIR_COLUMNS
from finetune_trainer.errors import InvalidDataError


def partners(prompts: Sequence[bytes], seed: int) -> list[int]:
    """For each row the row whose answer its prompt gets: the next one, in a random order, that has another prompt.

    Rows that all have the same prompt get the next answer to it. A row that is alone gets its own.
    """
    order = numpy.random.default_rng(seed).permutation(len(prompts)).tolist()
    alike = len({*prompts}) == 1
    found = [0] * len(prompts)
    for place, row in enumerate(order):
        following = (order[(place + step) % len(order)] for step in range(1, len(order) + 1))
        found[row] = next(other for other in following if alike or prompts[other] != prompts[row])
    return found


def with_mismatches(rows: Any, seed: int) -> Any:  # noqa: ANN401 - datasets.Dataset
    """`rows` with other_ids and other_mask: the prompt of each with another one's answer, no longer than any row."""
    ids = [numpy.asarray(row, dtype=numpy.int32) for row in rows["input_ids"]]
    masks = [numpy.asarray(mask, dtype=numpy.int8) for mask in rows["completion_mask"]]
    starts = [int(mask.argmax()) for mask in masks]
    limit = max(map(len, ids))
    others = partners([ids[row][:start].tobytes() for row, start in enumerate(starts)], seed)
    ends = [_end(starts[row], masks[other][starts[other] :], limit) for row, other in enumerate(others)]
    joined = [
        [
            numpy.concatenate([part[row][: starts[row]], part[other][starts[other] :]])[: ends[row]].tolist()
            for row, other in enumerate(others)
        ]
        for part in (ids, masks)
    ]
    kept = rows.remove_columns([name for name in PAIR_COLUMNS if name in rows.column_names])
    features = rows.features
    for name, like, values in zip(PAIR_COLUMNS, ("input_ids", "completion_mask"), joined, strict=True):
        kept = kept.add_column(name, values, feature=features[like])
    return kept


def _end(start: int, mask: numpy.ndarray, limit: int) -> int:
    """Length of prompt and answer within `limit`, up to the last token that carries loss."""
    return start + int(numpy.flatnonzero(mask[: limit - start]).max()) + 1


def require_both_kinds(desirable: Sequence[bool], source: str, way_out: str) -> None:
    """Raises InvalidDataError unless `desirable` has answers that are wanted and answers that are not."""
    if len({*desirable}) < 2:
        kind = "wanted (label true)" if desirable and desirable[0] else "unwanted (label false)"
        raise InvalidDataError(
            f"training.objective: kto needs answers of both kinds, and those of {source} are all {kind}; {way_out}"
        )
