"""Tools and calls of a row: both of their forms become the same objects, and what is wrong with them is said."""

import json
from typing import Any

import pytest

from finetune_trainer.data.examples import Example, shape_of
from finetune_trainer.data.records import UnusableRowError, without_nulls
from finetune_trainer.errors import InvalidSpecError
from trainer_requests import make_spec

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ARGUMENTS = {"city": "Paris"}
QUESTION = {"role": "user", "content": "Weather in Paris?"}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"sky": "clear"}'}
ANSWER = {"role": "assistant", "content": "Clear."}


def call(arguments: Any = ARGUMENTS, **fields: Any) -> dict[str, Any]:
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}, **fields}
    return {"role": "assistant", "content": "", "tool_calls": [called]}


def row(*messages: dict[str, Any], tools: Any = (WEATHER,)) -> dict[str, Any]:
    return {"messages": [*messages], "tools": [*tools] if isinstance(tools, tuple) else tools}


def read(columns: dict[str, Any]) -> Example:
    spec = make_spec(dataset={"train": {"source": "pvc://d/train.jsonl"}, "tools": True})
    return shape_of(spec.dataset, columns, "train.jsonl").example(columns)


@pytest.mark.parametrize(
    "columns",
    [
        row(QUESTION, call(), RESULT, ANSWER),
        row(QUESTION, call(json.dumps(ARGUMENTS)), RESULT, ANSWER),
        row(QUESTION, call(), RESULT, ANSWER, tools=json.dumps([WEATHER])),
        row(QUESTION, {**call(), "content": None}, RESULT, ANSWER, tools=(WEATHER["function"],)),
        row(QUESTION, call(), RESULT, ANSWER, tools=({"type": "function", **WEATHER["function"]},)),
        row(QUESTION, {**call(), "tool_calls": json.dumps(call()["tool_calls"])}, RESULT, ANSWER),
    ],
    ids=[
        "objects",
        "arguments as JSON text",
        "tools as JSON text",
        "bare functions",
        "flat tools",
        "calls as JSON text",
    ],
)
def test_every_form_of_tools_and_calls_becomes_the_same_objects(columns: dict[str, Any]) -> None:
    example = read(columns)
    assert example.tools == (WEATHER,)
    assert example.messages[1]["tool_calls"] == call()["tool_calls"]
    assert example.messages[1]["content"] == ""


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        (row(QUESTION, call('{"city": '), RESULT, ANSWER), "messages[1].tool_calls[0].function.arguments is not JSON"),
        (row(QUESTION, call("[1]"), RESULT, ANSWER), "function.arguments is a list, not an object"),
        (row(QUESTION, {**call(), "tool_calls": "x"}, ANSWER), "messages[1].tool_calls is not JSON"),
        (row(QUESTION, {**call(), "tool_calls": [{}]}, ANSWER), "is not {type: function, function: {name, arguments}}"),
        (row(QUESTION, call(), RESULT, ANSWER, tools=()), "weather is called and is not among its tools"),
        (row(QUESTION, ANSWER, tools="[1"), "tools is not JSON"),
        (row(QUESTION, ANSWER, tools={"a": 1}), "tools is an object, not a list of functions"),
        (row(QUESTION, ANSWER, tools=({"type": "function"},)), "tools[0] is not {type: function, function: {name,"),
        (row({**call(), "role": "user"}, ANSWER), "messages[0].tool_calls stands in a user turn"),
        (row(QUESTION, call(), RESULT), "messages ends with a tool turn; the last one must be the assistant's"),
        (row(QUESTION, call(), {"role": "tool"}, ANSWER), "messages[2].content is missing"),
    ],
)
def test_tools_that_cannot_be_used_say_why(columns: dict[str, Any], want: str) -> None:
    with pytest.raises(UnusableRowError) as caught:
        read(columns)
    assert want in str(caught.value)


def test_tools_need_messages() -> None:
    with pytest.raises(InvalidSpecError, match=r"dataset\.tools: true needs rows with messages"):
        read({"prompt": "a", "completion": "b"})


def test_keys_that_a_table_gave_to_every_object_are_taken_away_again() -> None:
    assert without_nulls({"a": {"b": None, "c": [{"d": None, "e": 1}, None]}}) == {"a": {"c": [{"e": 1}, None]}}
