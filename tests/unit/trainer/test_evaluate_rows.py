"""Which held-out rows are judged, and how they are grouped."""

from pathlib import Path

import pytest
from datasets import Dataset

from finetune_trainer.errors import InvalidDataError
from finetune_trainer.evaluating.rows import batches, load_rows


def keep(path: Path, rows: int) -> Path:
    Dataset.from_list(
        [
            {"input_ids": [i, i + 1], "completion_mask": [0, 1], "prompt_ids": [i], "reference": str(i)}
            for i in range(rows)
        ]
    ).save_to_disk(str(path))
    return path


def test_all_rows_are_judged_when_they_fit(tmp_path: Path) -> None:
    assert [row.index for row in load_rows(keep(tmp_path / "eval", 5), 5, 0)] == [0, 1, 2, 3, 4]


def test_a_larger_set_is_sampled_over_its_whole_length_the_same_way_each_time(tmp_path: Path) -> None:
    path = keep(tmp_path / "eval", 100)
    first, again, other = load_rows(path, 10, 1), load_rows(path, 10, 1), load_rows(path, 10, 2)
    assert first == again != other
    indices = [row.index for row in first]
    assert indices == sorted(indices)
    assert max(indices) > 50


def test_a_missing_evaluation_set_names_the_fields_that_make_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"dataset\.eval or dataset\.evalFraction above 0"):
        load_rows(tmp_path / "eval", 5, 0)


def test_the_first_token_of_a_row_is_never_supervised(tmp_path: Path) -> None:
    Dataset.from_list([{"input_ids": [7, 8, 9], "completion_mask": [1, 1, 1]}]).save_to_disk(str(tmp_path / "eval"))
    (row,) = load_rows(tmp_path / "eval", 5, 0)
    assert row.supervised == [1, 2]
    assert (row.prompt_ids, row.reference) == ([], "")


def test_batches_hold_every_row_once_in_similar_lengths_within_the_bounds() -> None:
    lengths = [5, 100, 7, 90, 400, 6, 80]
    found = [*batches(lengths, tokens=200, rows=3)]
    assert sorted(i for batch in found for i in batch) == [*range(7)]
    assert found == [[4], [1, 3], [6, 2], [5, 0]]
