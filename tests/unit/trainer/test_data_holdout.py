from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.holdout import held_out

LABELS = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "c"])), max_size=60)


@given(LABELS, st.floats(0, 0.5), st.integers(0, 5))
def test_the_asked_fraction_is_held_out_and_something_is_left(
    labels: list[str | None], fraction: float, seed: int
) -> None:
    rows = held_out(labels, fraction, seed)
    want = 0 if fraction == 0 or len(labels) < 2 else min(max(1, round(fraction * len(labels))), len(labels) - 1)
    assert len(rows) == want
    assert rows == sorted(set(rows))
    assert all(0 <= row < len(labels) for row in rows)


@given(LABELS, st.floats(0.01, 0.5), st.integers(0, 5))
def test_the_choice_follows_from_its_arguments(labels: list[str | None], fraction: float, seed: int) -> None:
    assert held_out(labels, fraction, seed) == held_out(list(labels), fraction, seed)


def test_each_label_keeps_its_share() -> None:
    labels = ["common"] * 80 + ["rare"] * 20
    assert Counter(labels[row] for row in held_out(labels, 0.1, 1)) == {"common": 8, "rare": 2}


def test_a_label_with_two_rows_keeps_one_to_train_on() -> None:
    labels = ["common"] * 6 + ["rare"] * 2
    held = [labels[row] for row in held_out(labels, 0.5, 3)]
    assert held.count("rare") == 1


def test_another_seed_gives_another_choice() -> None:
    labels: list[str | None] = [None] * 200
    assert held_out(labels, 0.1, 1) != held_out(labels, 0.1, 2)


def test_answers_that_are_all_different_are_no_labels() -> None:
    labels: list[str | None] = [f"answer {i}" for i in range(100)]
    assert len(held_out(labels, 0.1, 1)) == 10


def test_the_choice_is_the_same_on_every_machine_and_version() -> None:
    assert held_out([None] * 20, 0.2, 42) == [0, 1, 11, 13]
