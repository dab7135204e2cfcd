from typing import Any

import pytest

from finetune_trainer.data.examples import Example, RowShape, shape_of
from finetune_trainer.data.records import BadRows, Place, UnusableRowError, require_unicode
from finetune_trainer.errors import InvalidDataError, InvalidSpecError
from trainer_requests import make_spec

KEYS = "a turn has role, content, name, weight"
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def turns(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


def shape(columns: dict[str, Any], /, **dataset: Any) -> RowShape:
    spec = make_spec(dataset={"train": {"source": "pvc://d/train.jsonl"}, **dataset})
    return shape_of(spec.dataset, columns, "train.jsonl")


@pytest.mark.parametrize(
    ("columns", "dataset", "want_format", "want_loss"),
    [
        ({"messages": CHAT}, {}, "messages", "assistant"),
        ({"prompt": "a", "completion": "b"}, {}, "prompt-completion", "completion"),
        ({"text": "a"}, {}, "text", "all"),
        ({"instruction": "a", "input": "", "output": "b"}, {}, "prompt-completion", "completion"),
        ({"body": "a"}, {"columns": {"text": "body"}}, "text", "all"),
        ({"q": "a", "a": "b"}, {"columns": {"prompt": "q", "completion": "a"}}, "prompt-completion", "completion"),
        ({"text": "a", "completion": "b"}, {"template": "News: {text}"}, "prompt-completion", "completion"),
        ({"q": "a", "a": "b"}, {"template": "Q: {q} A: {a}"}, "text", "all"),
        ({"messages": CHAT, "text": "a"}, {"format": "text"}, "text", "all"),
        ({"messages": CHAT}, {"lossOn": "all"}, "messages", "all"),
    ],
)
def test_the_format_follows_from_columns_and_spec(
    columns: dict[str, Any], dataset: dict[str, Any], want_format: str, want_loss: str
) -> None:
    found = shape(columns, **dataset)
    assert (found.format, found.loss_on) == (want_format, want_loss)


@pytest.mark.parametrize(
    ("columns", "dataset", "want"),
    [
        ({"question": "a", "answer": "b"}, {}, r"set dataset\.columns: \{prompt: question, completion: answer\}"),
        ({"conversations": []}, {}, "turn conversations into messages with role and content"),
        ({"foo": "a"}, {}, "the columns foo are no known format: messages, prompt and completion, or text"),
        ({"topics": "a"}, {"columns": {"text": "topic"}}, r"no column 'topic' \(did you mean topics\?\)"),
        ({"question": "a"}, {"template": "Q: {quest}"}, r"dataset\.template uses \{quest\}.*did you mean question"),
        ({"text": "a"}, {"format": "messages"}, r"dataset\.format: messages needs the column 'messages'"),
    ],
)
def test_columns_that_do_not_fit_name_the_way_out(columns: dict[str, Any], dataset: dict[str, Any], want: str) -> None:
    with pytest.raises(InvalidDataError, match=want):
        shape(columns, **dataset)


@pytest.mark.parametrize(
    ("template", "want"),
    [
        ("no columns", "names no column"),
        ("{open", r"dataset\.template: .*literal braces"),
        ("{a.b}", "not a plain column name"),
        ("{0}", "not a plain column name"),
        ("{}", "not a plain column name"),
        ("{a:>10}", "not a plain column name"),
        ("{a!r}", "not a plain column name"),
    ],
)
def test_a_template_takes_plain_column_names_only(template: str, want: str) -> None:
    with pytest.raises(InvalidSpecError, match=want):
        shape({"a": "x"}, template=template)


def test_a_template_that_no_part_of_the_row_takes_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match=r"dataset.template .* has the format messages, which has neither"):
        shape({"messages": CHAT}, format="messages", template="{messages}")


def test_a_template_renders_columns_and_literal_braces() -> None:
    found = shape({"text": "x", "n": 3, "completion": "y"}, template='{{"n": {n}}} {text}?')
    assert found.example({"text": "x", "n": 3, "completion": "y"}) == Example(prompt='{"n": 3} x?', completion="y")


def test_loss_on_a_part_that_text_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match=r"dataset\.lossOn: assistant does not fit the format text; choose all"):
        shape({"text": "a"}, lossOn="assistant")


def test_an_instruction_with_input_becomes_one_prompt() -> None:
    columns = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert shape(columns).example(columns) == Example(prompt="Add.\n\n1 2", completion="3")


def test_prompt_and_completion_may_be_turns() -> None:
    columns = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "yo"}]}
    assert shape(columns).example(columns) == Example(messages=tuple(CHAT), first_answer=1)


def test_half_a_character_makes_a_row_unusable_wherever_it_stands() -> None:
    require_unicode({"text": "é 🙂 漢", "messages": [{"content": ["ok"]}], "n": 3, "none": None})
    for columns in ({"text": "a \ud83d"}, {"messages": [{"content": "\ud83d!"}]}, {"a": {"\ud83d": 1}}):
        with pytest.raises(UnusableRowError, match=r"(text|messages|a) holds \\ud83d, half of a character"):
            require_unicode(columns)
    with pytest.raises(UnusableRowError, match=r"^the name of a column holds \\ud83d"):
        require_unicode({"\ud83d": "a"})


@pytest.mark.parametrize("extra", [7, ["a"], False])
def test_an_input_that_is_no_text_is_not_left_out_in_silence(extra: Any) -> None:
    columns = {"instruction": "Square it.", "input": extra, "output": "49"}
    with pytest.raises(UnusableRowError, match="input is"):
        shape(columns).example(columns)


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        ({"messages": "hi"}, "messages is text, not a list of turns"),
        ({"messages": []}, "messages is empty"),
        ({"messages": None}, "messages is missing"),
        ({"messages": ["hi"]}, "messages[0] is text, not an object with role and content"),
        ({"messages": turns(("user", "a"), ("bot", "b"))}, "messages[1].role is 'bot', use system, user or assistant"),
        ({"messages": [{"content": "a"}]}, "messages[0].role is missing, use system, user or assistant"),
        ({"messages": [{"role": None, "content": "a"}]}, "messages[0].role is missing, use system, user or assistant"),
        (
            {"messages": [{"role": "user", "content": "a", "contents": "b"}]},
            f"messages[0] has the unknown key 'contents' (did you mean content?); {KEYS}",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "weight": 0}]},
            "messages[0].weight stands in a user turn; only an assistant's turn has a weight",
        ),
        (
            {"messages": [*turns(("user", "a")), {"role": "assistant", "content": "b", "weight": 0.5}]},
            "messages[1].weight is 0.5; use 0 (no loss) or 1",
        ),
        (
            {"messages": [*turns(("user", "a")), {"role": "assistant", "content": "b", "weight": 0}]},
            "every assistant turn has weight 0, so there is nothing to learn",
        ),
        ({"messages": turns(("user", "a"))}, "messages has no assistant turn, so there is nothing to learn"),
        (
            {"messages": turns(("user", "a"), ("assistant", "b"), ("user", "c"))},
            "messages ends with a user turn; the last one must be the assistant's",
        ),
        ({"messages": turns(("user", "a"), ("assistant", " "))}, "messages[1].content is empty"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content is a list, not text"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0] has a tool turn: set dataset.tools: true to render tools",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "messages[0] has tool_calls: set dataset.tools: true to render tools",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]},
            "messages[0] has a function_call, the old form of tool_calls; rewrite it as tool_calls",
        ),
        ({"messages": CHAT, "tools": [{}]}, "it has tools, which are rendered with dataset.tools: true only"),
    ],
)
def test_a_conversation_that_cannot_be_used_says_why(columns: dict[str, Any], want: str) -> None:
    with pytest.raises(UnusableRowError) as caught:
        shape({"messages": CHAT}).example(columns)
    assert str(caught.value) == want


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        ({"prompt": "a"}, "completion is missing"),
        ({"prompt": "a", "completion": ""}, "completion is empty"),
        ({"prompt": "a", "completion": 3}, "completion is a number, not text"),
        ({"prompt": ["a"], "completion": "b"}, "prompt is a list, not text"),
        ({"prompt": None, "completion": "b"}, "prompt is missing"),
    ],
)
def test_a_pair_that_cannot_be_used_says_why(columns: dict[str, Any], want: str) -> None:
    with pytest.raises(UnusableRowError) as caught:
        shape({"prompt": "a", "completion": "b"}).example(columns)
    assert str(caught.value) == want


def test_columns_that_nothing_reads_are_known() -> None:
    assert shape({"text": "a", "id": 1, "url": "u"}).unused({"text": "a", "id": 1, "url": "u"}) == ["id", "url"]


def test_bad_rows_are_listed_with_count_places_and_way_out() -> None:
    bad = BadRows()
    for line in (12, 30, 31, 40, 41, 50, 51):
        bad.add(Place("train.jsonl", line), "not JSON")
    with pytest.raises(InvalidDataError) as caught:
        bad.refuse_above(0, 500)
    assert str(caught.value) == (
        "train.jsonl: 7 of 500 rows cannot be used: line 12: not JSON; line 30: not JSON; line 31: not JSON; "
        "line 40: not JSON; line 41: not JSON; and 2 more. Fix them, or allow them with dataset.maxBadRows: 7"
    )


def test_bad_rows_of_several_files_are_told_apart() -> None:
    bad = BadRows()
    bad.add(Place("a.jsonl", 1), "x")
    bad.add(Place("b.jsonl", 2), "y")
    assert bad.describe(9) == "2 of 9 rows cannot be used: a.jsonl line 1: x; b.jsonl line 2: y"


def test_allowed_bad_rows_pass() -> None:
    bad = BadRows()
    bad.add(Place("a.jsonl", 1), "x")
    bad.refuse_above(1, 2)


def test_a_turn_of_weight_0_carries_no_loss_and_null_keys_are_no_keys() -> None:
    second = {"role": "assistant", "content": "b", "weight": 1, "tool_calls": None}
    messages = [
        *turns(("user", "q")),
        {"role": "assistant", "content": "a", "weight": 0},
        *turns(("user", "r")),
        second,
    ]
    found = shape({"messages": messages}).example({"messages": messages})
    assert found.silent == {1}
    assert found.messages == tuple(turns(("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")))
