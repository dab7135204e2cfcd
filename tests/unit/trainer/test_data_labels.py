"""Labels of rows: what may be one, in what order they become classes, and what is noticed about them."""

from typing import Any

import pytest

from finetune_trainer.data.class_names import names_in_schema, with_names
from finetune_trainer.data.examples import RowShape, shape_of
from finetune_trainer.data.labelled import LONGEST_LABEL, marks_entities, stray_tag
from finetune_trainer.data.labels import MOST_LABELS, LabelTally, class_names, left_in_train, require_known
from finetune_trainer.data.records import Place, UnusableRowError
from finetune_trainer.errors import InvalidDataError
from trainer_requests import make_spec

TEXT, TAGS = "classification", "token-classification"


def shape(columns: dict[str, Any], task: str, /, **dataset: Any) -> RowShape:
    spec = make_spec(task=task, dataset={"train": {"source": "pvc://d/train.jsonl"}, **dataset})
    return shape_of(spec.dataset, columns, "train.jsonl", task)


def tally(*labels: tuple[str, ...], tagged: bool = False) -> LabelTally:
    found = LabelTally()
    for number, row in enumerate(labels, start=1):
        found.add(row, Place("eval.jsonl", number), tagged=tagged)
    return found


@pytest.mark.parametrize(
    ("columns", "task", "dataset", "want"),
    [
        ({"text": "a", "label": " earn "}, TEXT, {}, ("earn",)),
        ({"text": "a", "label": 3}, TEXT, {}, ("3",)),
        ({"text": "a", "label": False}, TEXT, {}, ("false",)),
        ({"body": "a", "topic": "x"}, TEXT, {"columns": {"text": "body", "label": "topic"}}, ("x",)),
        ({"q": "a", "label": "x"}, TEXT, {"template": "Q: {q}"}, ("x",)),
        ({"tokens": ["a", "b"], "tags": ["O", "B-X"]}, TAGS, {}, ("O", "B-X")),
        ({"words": ["a"], "pos": [7]}, TAGS, {"columns": {"tokens": "words", "tags": "pos"}}, ("7",)),
    ],
)
def test_the_columns_of_the_task_give_text_or_words_with_labels(
    columns: dict[str, Any], task: str, dataset: dict[str, Any], want: tuple[str, ...]
) -> None:
    example = shape(columns, task, **dataset).example(columns)
    assert example.labels == want
    assert example.text in ("a", "Q: a") if task == TEXT else len(example.words) == len(want)


@pytest.mark.parametrize(
    ("columns", "task", "want"),
    [
        ({"text": "a", "label": None}, TEXT, "label is missing"),
        ({"text": "a", "label": " "}, TEXT, "label is empty"),
        ({"text": "a", "label": 0.5}, TEXT, "label is a number; a label is text, a whole number, true or false"),
        ({"text": "a", "label": ["x"]}, TEXT, "label is a list"),
        ({"text": "a", "label": "x" * 200}, TEXT, f"label has 200 characters; a label has at most {LONGEST_LABEL}"),
        ({"text": "", "label": "x"}, TEXT, "text is empty"),
        ({"tokens": ["a"], "tags": ["O", "O"]}, TAGS, "tags has 2 entries for 1 tokens"),
        ({"tokens": [], "tags": []}, TAGS, "tokens is empty"),
        ({"tokens": "a b", "tags": ["O"]}, TAGS, "tokens is text, not a list"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, TAGS, r"tokens\[1\] is empty"),
        ({"tokens": ["a"], "tags": [None]}, TAGS, r"tags\[0\] is null"),
    ],
)
def test_a_row_without_a_usable_label_says_why(columns: dict[str, Any], task: str, want: str) -> None:
    with pytest.raises(UnusableRowError, match=want):
        shape(columns, task).example(columns)


def test_rows_without_the_columns_of_the_task_name_the_way_out() -> None:
    with pytest.raises(InvalidDataError, match=r"labelled-text needs the column 'label'.*\{label: <column>\}"):
        shape({"text": "a", "topic": "b"}, TEXT)


@pytest.mark.parametrize(
    ("labels", "want"),
    [(("b", "a", "b"), ["a", "b"]), (("10", "9", "-1"), ["-1", "9", "10"]), (("10", "9", "x"), ["10", "9", "x"])],
)
def test_classes_are_the_sorted_labels_and_numbers_in_their_order(labels: tuple[str, ...], want: list[str]) -> None:
    assert class_names(tally(*((label,) for label in labels)), "t") == want


@pytest.mark.parametrize(
    ("labels", "want"),
    [
        (["a", "a"], "every row has the label 'a'; a classifier needs rows of at least two labels"),
        ([str(i) for i in range(MOST_LABELS + 1)], "is another column the label"),
    ],
)
def test_what_cannot_be_classes_is_refused(labels: list[str], want: str) -> None:
    with pytest.raises(InvalidDataError, match=want):
        class_names(tally(*((label,) for label in labels)), "train.jsonl")


def test_a_held_out_label_that_cannot_be_learned_is_refused_with_its_row() -> None:
    with pytest.raises(InvalidDataError, match=r"eval\.jsonl line 2 has the label 'c', which no train row has.* a, b"):
        require_known(tally(("a",), ("c",)), ["a", "b"], "eval.jsonl")


def test_a_row_with_the_only_example_of_a_label_is_not_held_out() -> None:
    rows = [frozenset(labels) for labels in ("ab", "a", "b", "c", "ab")]
    assert left_in_train([0, 1, 3], rows) == [0, 1]
    assert left_in_train([0, 1, 2, 4], rows) == [1, 2, 4]


@pytest.mark.parametrize(
    ("tags", "want"),
    [
        (["O", "B-PER", "I-PER", "O"], None),
        (["B-PER", "I-LOC"], "I-LOC after B-PER at word 2"),
        (["O", "I-PER"], "I-PER after O at word 2"),
        (["I-PER", "I-PER"], "I-PER at word 1"),
        (["NOUN", "VERB"], None),
    ],
)
def test_a_tag_that_continues_nothing_is_noticed(tags: list[str], want: str | None) -> None:
    assert stray_tag(tags) == want


def test_tags_are_of_entities_when_all_of_them_are() -> None:
    assert marks_entities(["B-PER", "I-PER", "O"])
    assert not marks_entities(["NOUN", "VERB"])
    assert not marks_entities(["B-PER", "NOUN"])
    assert not marks_entities(["O"])


def test_contradictions_and_stray_tags_become_warnings_with_their_rows() -> None:
    found = tally(("I-X", "O"), tagged=True)
    assert not found.contradicts(b"k", ("a",))
    assert not found.contradicts(b"k", ("a",))
    assert found.contradicts(b"k", ("b",))
    found.contradictions.add(Place("t", 3), "as line 1")
    assert found.warnings("t") == [
        "t: 1 rows have the text of an earlier one and other labels: line 3 as line 1",
        "t: in 1 rows an I- tag continues no entity of its type; it is learned as it stands: line 1 I-X at word 1",
    ]


def test_names_of_labels_are_read_from_the_schema_of_a_table() -> None:
    features = (
        b'{"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "n": {"dtype": "int64", '
        b'"_type": "Value"}, "tags": {"feature": {"names": ["O", "B"], "_type": "ClassLabel"}, "_type": "List"}}}}'
    )
    namings = names_in_schema({b"huggingface": features})
    row = {"label": 1, "n": 1, "tags": [0, 1, -1]}
    assert with_names(row, namings) == {"label": "yes", "n": 1, "tags": ["O", "B", None]}
    assert with_names({"label": -1}, namings) == {"label": None}
    for broken in (None, {}, {b"huggingface": b"{"}, {b"huggingface": b'{"info": 1}'}):
        assert names_in_schema(broken) == {}
