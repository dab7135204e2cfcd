"""Rows of task: extraction: what is an answer, and what dataset.schema says of it."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data.examples import shape_of
from finetune_trainer.data.json_answers import DIALECT, AnswerCheck
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidDataError, InvalidSpecError
from trainer_requests import make_spec

ASK = {"role": "user", "content": "Two teas"}
PRICE = {"type": "object", "properties": {"price": {"type": "number"}, "tags": {"items": {"type": "string"}}}}
PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text().partition("### JSON answers")[2]
REFUSED = re.findall(r"^\| `(\{.*?)` \| (.+) \|$", PAGE.partition("### Preferences")[0], re.MULTILINE)
ACCEPTED = re.findall(r"^\{.*$", PAGE.partition("### Preferences")[0], re.MULTILINE)


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def answer(columns: dict[str, Any], **dataset: Any) -> str:
    spec = make_spec(task="extraction", dataset={"train": {"source": "pvc://d/t.jsonl"}, **dataset})
    return shape_of(spec.dataset, columns, "t.jsonl", "extraction").example(columns).answer


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        ({"prompt": "a", "completion": '{"b": 1}'}, '{"b": 1}'),
        ({"prompt": "a", "completion": {"z": "Größe", "a": None}}, '{"z": "Größe", "a": null}'),
        ({"prompt": "a", "completion": [1, {"b": 2.5}]}, '[1, {"b": 2.5}]'),
        ({"instruction": "a", "input": "", "output": {"b": []}}, '{"b": []}'),
        ({"messages": [ASK, said("Sure."), ASK, said("[1]")]}, "[1]"),
        ({"prompt": [ASK], "completion": [said("{}")]}, "{}"),
    ],
)
def test_an_answer_is_json_as_text_or_as_a_value(columns: dict[str, Any], want: str) -> None:
    assert answer(columns) == want


def test_a_list_after_a_template_is_json() -> None:
    assert answer({"prompt": [1], "body": "x", "completion": [1]}, template="Read: {body}") == "[1]"


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        ({"prompt": "a", "completion": '{"b": 1 "c": 2}'}, r"completion is not JSON: Expecting ',' .*at character 9$"),
        ({"prompt": "a", "completion": '{"b": NaN}'}, "completion is not JSON: NaN is not a JSON value"),
        ({"prompt": "a", "completion": '"tea"'}, "completion is text as JSON; an answer is an object or a list"),
        ({"prompt": "a", "completion": "[" * 65 + "]" * 65}, "completion is nested too deeply: more than 64 levels"),
        ({"prompt": "a", "completion": "[" * 10**5}, "completion is nested too deeply"),
        ({"prompt": "a", "completion": f"[{'1' * 5000}]"}, "completion is not JSON: Exceeds the limit"),
        ({"prompt": "a", "completion": {"b": b"raw"}}, "completion cannot be written as JSON: .*bytes"),
        ({"prompt": "a", "completion": {"b": float("inf")}}, "completion cannot be written as JSON: Out of range"),
        ({"instruction": "a", "input": "", "output": "tea"}, "output is not JSON: Expecting value at character 1"),
        ({"messages": [ASK, said("[1]"), ASK, said("tea")]}, r"messages\[3\]\.content is not JSON"),
        ({"prompt": [ASK], "completion": [said("tea")]}, r"completion\[0\]\.content is not JSON"),
    ],
)
def test_a_row_whose_answer_is_no_json_names_the_place(columns: dict[str, Any], want: str) -> None:
    with pytest.raises(UnusableRowError, match=want):
        answer(columns)


def test_64_levels_are_an_answer_also_to_a_schema_that_follows_them() -> None:
    tree = {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}
    assert answer({"prompt": "a", "completion": "[" * 64 + "]" * 64}, schema=tree)


def test_the_page_shows_rows_and_refusals_as_they_are() -> None:
    assert len(REFUSED) == len(ACCEPTED) == 3
    for row in ACCEPTED:
        assert answer(json.loads(row))
    for row, reason in REFUSED:
        with pytest.raises(UnusableRowError, match=re.escape(reason)):
            answer(json.loads(row))


def test_texts_without_answers_are_refused() -> None:
    with pytest.raises(InvalidDataError, match="task: extraction needs an answer to each text"):
        answer({"text": "a"})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('{"price": "ten"}', r"^completion\.price: 'ten' is not of type 'number'$"),
        ('{"tags": ["a", 1]}', r"^completion\.tags\[1\]: 1 is not of type 'string'$"),
        ("[]", r"^completion: \[\] is not of type 'object'$"),
    ],
)
def test_a_row_that_violates_the_schema_names_the_place(text: str, want: str) -> None:
    with pytest.raises(UnusableRowError, match=want):
        answer({"prompt": "a", "completion": text}, schema=PRICE)


def test_a_row_that_satisfies_the_schema_is_taken() -> None:
    assert answer({"prompt": "a", "completion": {"price": 10}}, schema={"$schema": DIALECT, **PRICE})


@pytest.mark.parametrize(
    ("schema", "want"),
    [
        ({"properties": {"price": {"type": "nmber"}}}, r"dataset\.schema\.properties\.price\.type: 'nmber'"),
        ({"properties": {"a": {"pattern": "["}}}, r"dataset\.schema\.properties\.a\.pattern: '\['"),
        ({"$ref": "https://example.org/a.json"}, r"\$ref 'https://example\.org/a\.json' is outside of the schema"),
        ({"items": {"$ref": DIALECT}}, "is outside of the schema, and nothing is fetched"),
        ({"$ref": "#/$defs/a"}, r"\$ref '#/\$defs/a' names nothing in the schema"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, r"\$schema: http://json-schema\.org/draft-07/schema#"),
        ({"properties": {"a": {"$schema": DIALECT}}}, r"\$schema stands in a part of it"),
        ({"properties": {"a": {"$id": "x"}}}, r"\$id gives a part of it an address"),
        ({"items": {"patternProperties": {"a": {}}}}, "patternProperties is not taken"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_by_name(schema: dict[str, Any], want: str) -> None:
    with pytest.raises(InvalidSpecError, match=want):
        AnswerCheck(schema)


def test_names_of_fields_and_values_are_no_keywords() -> None:
    schema = {"properties": {"$ref": {"type": "string"}, "$id": {}}, "enum": [{"$ref": "http://x"}]}
    assert AnswerCheck(schema).value('{"$ref": "http://x"}', "completion") == {"$ref": "http://x"}


@pytest.mark.parametrize("dialect", [{}, {"$schema": DIALECT}], ids=["plain", "with its dialect"])
def test_a_pattern_without_end_ends_the_job_by_name(dialect: dict[str, str]) -> None:
    started = time.process_time()
    with pytest.raises(InvalidSpecError, match=r"the pattern '\^\(a\|aa\)\+\$' takes more than 0\.25 s on completion"):
        AnswerCheck({**dialect, "items": {"pattern": "^(a|aa)+$"}}).value(json.dumps(["a" * 60 + "!"]), "completion")
    assert time.process_time() - started < 5
