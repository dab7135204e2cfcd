"""Datasets of a hub (hf://org/name): pinned to a commit, read by the datasets library, never with code of theirs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.data.class_names import names_in_features, with_names
from finetune_trainer.data.records import Place, Record, without_nulls
from finetune_trainer.data.slices import Slice
from finetune_trainer.errors import InvalidDataError, SourceNotFoundError
from finetune_trainer.hub_access import hub_errors, hub_name, pinned_revision


def hub_commit(uri: str, pins: Path) -> str:
    """The commit of the dataset `uri` that this job reads, remembered in folder `pins`."""
    return pinned_revision(uri, "dataset", None, pins)


def read_hub_rows(uri: str, part: Slice, pins: Path) -> Iterator[Record]:
    """Rows of the dataset `uri` (hf://org/name), cut to `part`, at the commit remembered in folder `pins`.

    Raises SourceNotFoundError, SourceUnavailableError or InvalidDataError.
    """
    name = hub_name(uri)
    revision = hub_commit(uri, pins)
    rows = _load(uri, name, part, revision)
    namings = names_in_features(rows.features)
    for number, columns in enumerate(rows, start=1):
        values = {name: without_nulls(value) for name, value in columns.items()}
        yield Record(Place(uri, number, "row"), with_names(values, namings))


def _load(uri: str, name: str, part: Slice, revision: str) -> Any:  # noqa: ANN401 - a datasets.Dataset
    import datasets

    datasets.disable_progress_bars()
    try:
        with hub_errors(uri):
            rows = datasets.load_dataset(name, split=part.split, revision=revision)
    except ValueError as error:
        raise SourceNotFoundError(f"{uri}: {error}") from error
    except (datasets.exceptions.DatasetGenerationError, RuntimeError) as error:
        raise InvalidDataError(f"{uri} cannot be read: {error.__cause__ or error}") from error
    start, stop = part.bounds(len(rows))
    return rows if part.whole else rows.select(range(start, stop))
