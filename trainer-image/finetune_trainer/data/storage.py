"""How encoded rows are kept: first appended to one Arrow file, then chosen rows saved as a dataset folder.

Must not decide which rows are kept. Holds one batch of rows in memory, not the dataset.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy
import pyarrow  # type: ignore[import-untyped]

from finetune_trainer.data.encoding import EncodedRow

LABELS = "labels"
"""Column of rows for a head while their classes are not known yet: the label of the text, or of each word."""
CLASSES = "classes"
"""Column of rows for a head: the class at each token that carries loss, as a number; its feature has the names."""
TRAIN_COLUMNS = ("input_ids", "completion_mask")
ASKED_COLUMNS = ("prompt_ids", "reference")
PAIR_COLUMNS = ("other_ids", "other_mask")
VERDICT_COLUMNS = (*PAIR_COLUMNS, "desirable")
EVAL_COLUMNS = (*TRAIN_COLUMNS, *ASKED_COLUMNS)
_SCHEMA = pyarrow.schema(
    {
        "input_ids": pyarrow.list_(pyarrow.int32()),
        "completion_mask": pyarrow.list_(pyarrow.int8()),
        "prompt_ids": pyarrow.list_(pyarrow.int32()),
        "reference": pyarrow.string(),
        LABELS: pyarrow.list_(pyarrow.string()),
        "other_ids": pyarrow.list_(pyarrow.int32()),
        "other_mask": pyarrow.list_(pyarrow.int8()),
        "desirable": pyarrow.bool_(),
    }
)
_BATCH_ROWS = 512


class RowFile:
    """An Arrow file that rows are appended to; a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._writer = pyarrow.ipc.new_stream(str(path), _SCHEMA)
        self._batch: list[EncodedRow] = []

    def append(self, row: EncodedRow) -> None:
        """Add a row."""
        self._batch.append(row)
        if len(self._batch) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = {
            "input_ids": [row.input_ids for row in self._batch],
            "completion_mask": [row.mask for row in self._batch],
            "prompt_ids": [row.prompt_ids for row in self._batch],
            "reference": [row.reference for row in self._batch],
            LABELS: [row.labels for row in self._batch],
            "other_ids": [row.other.input_ids if row.other else None for row in self._batch],
            "other_mask": [row.other.mask if row.other else None for row in self._batch],
            "desirable": [row.desirable for row in self._batch],
        }
        self._writer.write_batch(pyarrow.record_batch(columns, schema=_SCHEMA))
        self._batch = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._batch and error is None:
            self._flush()
        self._writer.close()


def open_rows(path: Path) -> Any:  # noqa: ANN401 - a datasets.Dataset
    """The rows of a RowFile, mapped into memory."""
    import datasets

    return datasets.Dataset.from_file(str(path))


def save_rows(
    rows: Any,  # noqa: ANN401 - a datasets.Dataset
    indices: Iterable[int],
    columns: tuple[str, ...],
    target: Path,
    change: Callable[[Any], Any] = lambda chosen: chosen,
) -> None:
    """Save rows `indices` of `rows`, in that order and as `change` leaves them, as a dataset folder with `columns`.

    `change` may add columns.
    """
    import datasets

    datasets.disable_progress_bars()
    chosen = change(rows.select_columns([*columns]).select([*indices], keep_in_memory=True))
    chosen.save_to_disk(str(target), num_proc=None)


def with_classes(rows: Any, classes: Sequence[str], name: str) -> Any:  # noqa: ANN401 - a datasets.Dataset
    """`rows` with the column CLASSES in place of their labels; `name` tells train rows from held-out ones."""
    import datasets

    numbers = {label: number for number, label in enumerate(classes)}
    scratch = Path(rows.cache_files[0]["filename"])
    changed = rows.map(
        lambda batch: {CLASSES: [[numbers[label] for label in labels] for labels in batch[LABELS]]},
        batched=True,
        features=datasets.Features({**rows.features, CLASSES: datasets.List(datasets.ClassLabel(names=[*classes]))}),
        cache_file_name=str(scratch.with_name(f"{scratch.stem}-{name}-classes.arrow")),
        new_fingerprint=name,  # none is wanted, and computing one would pickle the function
    )
    return changed.remove_columns([LABELS])


def class_names_of(rows: Any) -> tuple[str, ...]:  # noqa: ANN401 - a datasets.Dataset
    """Names of the classes of saved `rows`; empty for rows without classes."""
    return tuple(rows.features[CLASSES].feature.names) if CLASSES in rows.features else ()


def digest_of(rows: Any, indices: Iterable[int]) -> str:  # noqa: ANN401 - a datasets.Dataset
    """sha256:<hex> over the ids, masks and labels of rows `indices`, in that order."""
    total = hashlib.sha256()
    for index in indices:
        row = rows[index]
        total.update(len(row["input_ids"]).to_bytes(8, "little"))
        total.update(numpy.asarray(row["input_ids"], dtype="<i4").tobytes())
        total.update(numpy.asarray(row["completion_mask"], dtype="<i1").tobytes())
        if row[LABELS]:
            total.update(json.dumps(row[LABELS]).encode())
        if row["other_ids"] is not None:
            total.update(numpy.asarray(row["other_ids"], dtype="<i4").tobytes())
            total.update(numpy.asarray(row["other_mask"], dtype="<i1").tobytes())
        if row["desirable"] is not None:
            total.update(bytes([row["desirable"]]))
    return f"sha256:{total.hexdigest()}"
