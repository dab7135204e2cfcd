"""Which tokens carry loss, for every family: exactly the answers and their end tokens, whatever the text says."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from finetune_api.spec import DatasetSpec
from finetune_trainer.data.compression import DataFile
from finetune_trainer.data.encoding import EncodedRow, RowEncoder
from finetune_trainer.data.examples import Example, LossOn, shape_of
from finetune_trainer.data.readers import FORMATS
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidModelError, InvalidSpecError
from real_tokenizers import REAL_TOKENIZERS, real_tokenizer
from tiny_models import FAMILIES, Family, build_tokenizer

REAL = "real-"
NAMES = [*FAMILIES, *(f"{REAL}{family}" for family in REAL_TOKENIZERS)]
"""Tokenizers trained on a few sentences, and those that people tune with."""
FAMILY = pytest.mark.parametrize("family", NAMES)
ANSWER_PREFIX = {"qwen3": "<think>\n\n</think>\n\n"}
"""What a family writes before an answer by its own template, and so learns to write."""
LAST_ONLY = ("qwen3",)
"""Families whose template takes that away from an answer once another question follows: it is not learnt there."""
NO_SYSTEM = ("gemma", "gemma2")
CUE = "{% if add_generation_prompt %}assistant: {% endif %}"
PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + CUE
TRAILING_TEMPLATE = PLAIN_TEMPLATE + "{% if not add_generation_prompt %}THE END{% endif %}"


class Tokenizers(dict[str, Any]):
    """Made when they are asked for: a real one takes seconds."""

    def __missing__(self, name: str) -> Any:
        family = name.removeprefix(REAL)
        self[name] = build_tokenizer(family) if name == family else real_tokenizer(family)
        return self[name]


@pytest.fixture(scope="module")
def tokenizers() -> Tokenizers:
    return Tokenizers()


def traits(name: str) -> Family:
    return FAMILIES[name.removeprefix(REAL)]


def chat(*turns: str, system: str = "") -> Example:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    first = [{"role": "system", "content": system}] if system else []
    return Example(messages=(*first, *messages))


def encode(tokenizer: Any, example: Example, loss_on: LossOn = "assistant", task: str = "chat") -> EncodedRow:
    row = RowEncoder(tokenizer, loss_on=loss_on, task=task).encode(example)
    assert len(row.mask) == len(row.input_ids)
    return row


def supervised(tokenizer: Any, row: EncodedRow) -> list[str]:
    """Text of each run of tokens that carries loss."""
    runs: list[list[int]] = []
    previous = 0
    for token, mark in zip(row.input_ids, row.mask, strict=True):
        if mark and not previous:
            runs.append([])
        if mark:
            runs[-1].append(token)
        previous = mark
    return [tokenizer.decode(run) for run in runs]


def want_answer(family: str, answer: str) -> str:
    return ANSWER_PREFIX.get(family.removeprefix(REAL), "") + answer + traits(family).end_of_turn


def want_answers(family: str, *answers: str) -> list[str]:
    first = len(answers) - 1 if family.removeprefix(REAL) in LAST_ONLY else 0
    return [want_answer(family, answer) for answer in answers[first:]]


def with_template(family: str, template: str) -> Any:
    tokenizer = build_tokenizer(family)
    tokenizer.chat_template = (files("trl") / "chat_templates" / f"{template}.jinja").read_text()
    return tokenizer


@FAMILY
def test_the_mask_is_exactly_the_answer_and_its_end_token(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat("What is two plus three?", "five"))
    assert supervised(tokenizer, row) == [want_answer(family, "five")]


@FAMILY
def test_every_answer_of_a_conversation_carries_loss(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat("One?", "first", "Two?", "second"))
    assert supervised(tokenizer, row) == want_answers(family, "first", "second")
    assert row.rewritten == (family.removeprefix(REAL) in LAST_ONLY)


@FAMILY
def test_an_answer_that_repeats_the_question_is_not_mixed_up_with_it(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat("Paris", "Paris", "Paris", "Paris"))
    assert supervised(tokenizer, row) == want_answers(family, "Paris", "Paris")


@FAMILY
def test_end_tokens_written_by_a_user_carry_no_loss(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat(f"assistant {traits(family).end_of_turn} five", "six"))
    assert supervised(tokenizer, row) == [want_answer(family, "six")]


TALKS = {"alone": "", "told": "be brief"}
"""What the system says."""


@pytest.mark.parametrize("turns", [("five",), ("five", "six"), ("five", "six", "seven")], ids=len)
@pytest.mark.parametrize(
    ("family", "talk"),
    [(name, talk) for name in NAMES for talk in TALKS if talk == "alone" or name.removeprefix(REAL) not in NO_SYSTEM],
)
def test_the_ids_are_what_a_server_would_render(
    family: str, talk: str, turns: tuple[str, ...], tokenizers: Tokenizers
) -> None:
    tokenizer = tokenizers[family]
    example = chat(*(said for turn in turns for said in (f"Not {turn}?", turn)), system=TALKS[talk])
    row = encode(tokenizer, example)
    asked = tokenizer.apply_chat_template([*example.messages[:-1]], add_generation_prompt=True, return_dict=True)
    assert row.input_ids == tokenizer.apply_chat_template([*example.messages], return_dict=True)["input_ids"]
    assert row.prompt_ids == asked["input_ids"]
    assert row.input_ids[: len(row.prompt_ids)] == row.prompt_ids
    assert supervised(tokenizer, row) == want_answers(family, *turns)


@FAMILY
def test_there_is_never_a_second_beginning(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    bos = tokenizer.bos_token_id
    rows = [
        encode(tokenizer, chat("a", "b")),
        encode(tokenizer, Example(prompt="a", completion=" b"), "completion", "completion"),
        encode(tokenizer, Example(text="a"), "all"),
        encode(tokenizer, Example(text=f"{tokenizer.bos_token or ''}a"), "all"),
    ]
    for row in rows:
        assert bos is None or row.input_ids.count(bos) <= 1
        assert bos is None or row.prompt_ids.count(bos) <= 1


@FAMILY
def test_plain_continuation_supervises_completion_and_end(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, Example(prompt="News: oil fell. Topic?", completion=" crude"), "completion", "completion")
    assert row.prompt_ids == tokenizer("News: oil fell. Topic?")["input_ids"]
    start = len(row.prompt_ids)
    assert row.mask == [0] * start + [1] * (len(row.input_ids) - start)
    read = tokenizer.decode(row.input_ids).removeprefix(tokenizer.decode(row.prompt_ids))
    assert read == f" crude{tokenizer.eos_token}"
    assert (row.reference, row.input_ids[-1]) == (" crude", tokenizer.eos_token_id)


@FAMILY
def test_text_supervises_everything_and_ends(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, Example(text="crude oil prices"), "all")
    assert row.input_ids[-1] == tokenizer.eos_token_id
    assert all(row.mask)
    assert (row.prompt_ids, row.reference) == ([], "")


@FAMILY
def test_a_prompt_on_a_chat_model_is_a_users_turn(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    pair = Example(prompt="two plus three?", completion="five")
    assert encode(tokenizer, pair, "completion") == encode(tokenizer, chat("two plus three?", "five"))


@pytest.mark.parametrize("family", [name for name in NAMES if name.removeprefix(REAL) not in NO_SYSTEM])
def test_what_the_system_says_carries_no_loss(family: str, tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat("One?", "first", "Two?", "second", system="be brief"))
    assert supervised(tokenizer, row) == want_answers(family, "first", "second")
    assert "be brief" in tokenizer.decode(row.prompt_ids)


OTHER_TEMPLATES = {
    "llama3_1": "llama",
    "llama3_2": "llama",
    "phi3_5": "phi3",
    "qwen3_instruct_2507": "qwen2",
}
"""Further templates of the families, as their models ship them, without markers; the tokenizer that speaks them."""


@pytest.mark.parametrize("template", [*OTHER_TEMPLATES])
def test_the_stock_templates_of_later_models_are_masked_exactly(template: str, tokenizers: Tokenizers) -> None:
    family = OTHER_TEMPLATES[template]
    tokenizer = with_template(family, template)
    row = encode(tokenizer, chat("Paris", "Paris", "Paris", "Rome", system="be brief"))
    end = FAMILIES[family].end_of_turn
    assert supervised(tokenizer, row) == [f"Paris{end}", f"Rome{end}"]
    bos = tokenizer.bos_token_id
    assert bos is None or row.input_ids.count(bos) <= 1


@FAMILY
@pytest.mark.parametrize("limit", range(24, 60, 3))
def test_a_cut_row_ends_within_an_answer_and_is_a_beginning_of_the_whole(
    family: str, limit: int, tokenizers: Tokenizers
) -> None:
    row = encode(tokenizers[family], chat("One?", "first answer", "Two?", "second answer"))
    cut = row.cut(limit)
    assert len(cut.input_ids) == len(cut.mask) <= limit
    assert cut.input_ids == row.input_ids[: len(cut.input_ids)]
    assert cut.supervised == sum(row.mask[:limit])
    assert not cut.mask or cut.mask[-1] == 1


def test_a_turn_without_weight_carries_no_loss(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["phi3"]
    example = Example(messages=chat("One?", "first", "Two?", "second").messages, silent=frozenset({1}))
    assert supervised(tokenizer, encode(tokenizer, example)) == ["second<|end|>"]
    last = Example(messages=example.messages, silent=frozenset({3}))
    assert supervised(tokenizer, encode(tokenizer, last)) == ["first<|end|>"]


WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
TOOL_TALK: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": "Weather in Paris?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "clear"},
    {"role": "assistant", "content": "It is clear."},
)
QWEN_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Paris"}}'
WITH_TOOLS = {
    "qwen2_5": ("qwen2", f"{QWEN_CALL}<|im_end|>", "It is clear.<|im_end|>"),
    "qwen3": (
        "qwen3",
        f"<think>\n\n</think>\n\n{QWEN_CALL}<|im_end|>",
        "<think>\n\n</think>\n\nIt is clear.<|im_end|>",
    ),
    "qwen3_instruct_2507": ("qwen2", f"{QWEN_CALL}<|im_end|>", "It is clear.<|im_end|>"),
    "llama3_1": ("llama", f"{LLAMA_CALL}<|eot_id|>", "It is clear.<|eot_id|>"),
    "llama3_2": ("llama", f"{LLAMA_CALL}<|eot_id|>", "It is clear.<|eot_id|>"),
}


@pytest.mark.parametrize("template", [*WITH_TOOLS])
def test_a_call_and_the_answer_after_it_carry_loss_and_the_tools_result_does_not(template: str) -> None:
    family, *want = WITH_TOOLS[template]
    tokenizer = with_template(family, template)
    row = encode(tokenizer, Example(messages=TOOL_TALK, tools=(WEATHER,)))
    assert supervised(tokenizer, row) == (want[1:] if template in LAST_ONLY else want)


def test_a_call_with_the_reasoning_that_a_server_keeps_carries_loss(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["qwen3"]
    question, call, *rest = TOOL_TALK
    talk = ({"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}, question)
    messages = (*talk, {**call, "reasoning_content": "look it up"}, *rest)
    row = encode(tokenizer, Example(messages=messages, tools=(WEATHER,)))
    assert supervised(tokenizer, row) == [
        f"<think>\nlook it up\n</think>\n\n{QWEN_CALL}<|im_end|>",
        want_answer("qwen3", "It is clear."),
    ]


def test_reasoning_that_a_server_takes_away_is_not_in_the_row(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["qwen3"]
    answers = [f"<think>\nwhy {n}\n</think>\n\n{n}" for n in ("first", "second")]
    row = encode(tokenizer, chat("One?", answers[0], "Two?", answers[1]))
    assert supervised(tokenizer, row) == [f"{answers[1]}<|im_end|>"]
    assert "why first" not in tokenizer.decode(row.input_ids)


def test_only_answers_that_were_to_carry_loss_count_as_rewritten(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["qwen3"]
    example = chat("One?", "first", "Two?", "second")
    assert not encode(tokenizer, example, "completion").rewritten
    assert not encode(tokenizer, replace(example, silent=frozenset({1}))).rewritten
    longer = chat("One?", "first", "Two?", "third", "Why?", "fourth")
    pair = replace(example, first_answer=3, rejected=replace(longer, first_answer=3))
    with pytest.raises(UnusableRowError, match="renders the prompt by what follows it"):
        encode(tokenizer, pair, "completion")


def test_a_greeting_that_nobody_asked_for_is_context(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers["qwen3"]
    example = Example(messages=({"role": "assistant", "content": "Hello."}, *chat("One?", "first").messages))
    row = encode(tokenizer, example)
    assert supervised(tokenizer, row) == [want_answer("qwen3", "first")]
    assert row.input_ids == tokenizer.apply_chat_template([*example.messages], return_dict=True)["input_ids"]


def test_a_stop_token_that_only_the_variant_writes_is_learnt() -> None:
    tokenizer = with_template("phi3", "glm4moe")
    row = encode(tokenizer, chat("One?", "first", "Two?", "second"))
    assert [text.rpartition("</think>")[2] for text in supervised(tokenizer, row)] == [
        "\nfirst<|user|>",
        "\nsecond<|user|>",
    ]


@pytest.mark.parametrize(
    ("template", "last"),
    [("qwen3_5_nothink", "<think>\nwhy\n</think>\n\nsecond"), ("deepseek_r1_distill", "second")],
)
def test_an_answer_that_cannot_follow_what_a_server_asks_with_is_a_bad_row(template: str, last: str) -> None:
    tokenizer = with_template("qwen3", template)
    with pytest.raises(UnusableRowError, match=r"a server asks .*: its reasoning is missing, or too much"):
        encode(tokenizer, chat("One?", "<think>\nwhy\n</think>\n\nfirst", "Two?", last))


def test_an_answer_after_the_beginning_of_its_reasoning_is_learnt_from_there() -> None:
    tokenizer = with_template("qwen3", "deepseek_r1_distill")
    first, second = ("<think>\nwhy\n</think>\n\nfirst", "<think>\nand why\n</think>\n\nsecond")
    row = encode(tokenizer, chat("One?", first, "Two?", second))
    assert row.input_ids[: len(row.prompt_ids)] == row.prompt_ids
    (learnt,) = supervised(tokenizer, row)
    assert learnt.startswith(second.removeprefix("<think>\n"))


@pytest.mark.parametrize("template", [*WITH_TOOLS])
def test_a_call_at_the_end_is_what_evaluation_compares_with(template: str) -> None:
    family, want, _ = WITH_TOOLS[template]
    tokenizer = with_template(family, template)
    row = encode(tokenizer, Example(messages=TOOL_TALK[:2], tools=(WEATHER,)))
    assert supervised(tokenizer, row) == [want]
    ids = tokenizer(want, add_special_tokens=False)["input_ids"]
    assert row.reference == tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert '"city": "Paris"' in row.reference


@pytest.mark.parametrize("template", [*WITH_TOOLS])
def test_tools_are_rendered_as_a_server_renders_them(template: str) -> None:
    tokenizer = with_template(WITH_TOOLS[template][0], template)
    row = encode(tokenizer, Example(messages=TOOL_TALK[:2], tools=(WEATHER,)))
    served = tokenizer.apply_chat_template(
        [*TOOL_TALK[:1]], tools=[WEATHER], add_generation_prompt=True, tokenize=False
    )
    assert tokenizer.decode(row.prompt_ids) == served
    assert "null" not in served


def test_rows_of_a_table_are_rendered_as_the_rows_that_went_into_it(tmp_path: Path) -> None:
    other = {"type": "function", "function": {"name": "sum", "parameters": {"properties": {"a": {"type": "number"}}}}}
    called = {"id": "c2", "type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}
    question = {"role": "user", "content": "Sum?"}
    rows: list[dict[str, Any]] = [
        {"messages": [*TOOL_TALK], "tools": [WEATHER]},
        {"messages": [question, {"role": "assistant", "content": "", "tool_calls": [called]}], "tools": [other]},
        {"messages": [question, {"role": "assistant", "content": "two"}]},
    ]
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    tokenizer = with_template("qwen2", "qwen2_5")
    dataset = DatasetSpec.model_validate({"train": {"source": "pvc://data/train.parquet"}, "tools": True})
    found = [record.columns for record in FORMATS[".parquet"].read(DataFile(path))]
    shape = shape_of(dataset, found[0], "train.parquet")
    assert [encode(tokenizer, shape.example(row)) for row in found] == [
        encode(tokenizer, shape.example(row)) for row in rows
    ]


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma", "gemma3"])
def test_a_template_that_leaves_out_tools_is_refused(family: str, tokenizers: Tokenizers) -> None:
    with pytest.raises(InvalidSpecError, match=r"chat template leaves out the .*model\.chatTemplate"):
        encode(tokenizers[family], Example(messages=TOOL_TALK, tools=(WEATHER,)))


def test_reasoning_that_the_template_does_not_read_is_a_bad_row(tokenizers: Tokenizers) -> None:
    thought = {"role": "assistant", "content": "five", "reasoning_content": "two and three"}
    example = Example(messages=({"role": "user", "content": "Sum?"}, thought))
    with pytest.raises(UnusableRowError, match="reasoning_content, which the chat template does not read"):
        encode(tokenizers["llama"], example)
    row = encode(tokenizers["qwen3"], example)
    assert supervised(tokenizers["qwen3"], row) == ["<think>\ntwo and three\n</think>\n\nfive<|im_end|>"]


def test_loss_on_completion_of_a_conversation_is_its_last_answer(tokenizers: Tokenizers) -> None:
    row = encode(tokenizers["llama"], chat("One?", "first", "Two?", "second"), "completion")
    assert supervised(tokenizers["llama"], row) == ["second<|eot_id|>"]


def test_loss_on_all_covers_every_token(tokenizers: Tokenizers) -> None:
    assert all(encode(tokenizers["llama"], chat("One?", "first"), "all").mask)


def test_turns_of_the_prompt_carry_no_loss(tokenizers: Tokenizers) -> None:
    example = Example(messages=chat("One?", "first", "Two?", "second").messages, first_answer=3)
    assert supervised(tokenizers["llama"], encode(tokenizers["llama"], example, "completion")) == ["second<|eot_id|>"]


def test_a_conversation_that_the_template_refuses_is_a_bad_row(tokenizers: Tokenizers) -> None:
    with pytest.raises(UnusableRowError, match="the chat template refuses it: System role not supported"):
        encode(tokenizers["gemma"], chat("a", "b", system="be brief"))


def test_an_unknown_template_is_masked_turn_by_turn() -> None:
    tokenizer = build_tokenizer("qwen2")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = encode(tokenizer, chat("One?", "first", "Two?", "second"))
    assert supervised(tokenizer, row) == ["first<|im_end|>", "second<|im_end|>"]


def test_a_template_with_markers_of_its_own_is_believed() -> None:
    tokenizer = build_tokenizer("qwen2")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}A:"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
        "{% else %}Q:{{ m.content }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    assert supervised(tokenizer, encode(tokenizer, chat("One?", "first"))) == ["first<|im_end|>"]


def test_a_template_without_an_end_token_gets_one() -> None:
    tokenizer = build_tokenizer("qwen2")
    tokenizer.chat_template = PLAIN_TEMPLATE
    row = encode(tokenizer, chat("One?", "first"))
    assert supervised(tokenizer, row)[-1].endswith("<|im_end|>")
    assert row.input_ids[-1] == tokenizer.eos_token_id


def test_a_template_that_hides_its_turns_names_the_ways_out() -> None:
    tokenizer = build_tokenizer("qwen2")
    tokenizer.chat_template = TRAILING_TEMPLATE
    with pytest.raises(
        InvalidSpecError, match=r"no \{% generation %\} markers.*dataset\.lossOn: all.*model\.chatTemplate"
    ):
        encode(tokenizer, chat("One?", "first", "Two?", "second"))
    assert all(encode(tokenizer, chat("One?", "first", "Two?", "second"), "all").mask)


def test_a_template_that_is_not_jinja_is_refused_with_its_line() -> None:
    tokenizer = build_tokenizer("qwen2")
    tokenizer.chat_template = "fine\n{% for %}"
    with pytest.raises(InvalidSpecError, match="the chat template is not valid Jinja: line 2"):
        encode(tokenizer, chat("a", "b"))


def test_messages_on_a_model_without_a_template_name_the_ways_out() -> None:
    tokenizer = build_tokenizer("llama")
    tokenizer.chat_template = None
    with pytest.raises(InvalidSpecError, match=r"no chat template.*model\.chatTemplate"):
        encode(tokenizer, chat("a", "b"))
    row = encode(tokenizer, Example(prompt="a", completion=" b"), "completion")
    assert supervised(tokenizer, row) == [" b<|eot_id|>"]


def test_a_token_across_the_border_is_trained_as_a_server_would_see_it() -> None:
    tokenizer = build_tokenizer("llama")
    prompt, completion = "News: the p", "rofit rose by ten percent"
    assert (
        tokenizer(prompt + completion)["input_ids"][: len(tokenizer(prompt)["input_ids"])]
        != tokenizer(prompt)["input_ids"]
    )
    row = encode(tokenizer, Example(prompt=prompt, completion=completion), "completion", "completion")
    assert row.input_ids[: len(row.prompt_ids)] == tokenizer(prompt)["input_ids"]
    assert tokenizer.decode(row.input_ids, skip_special_tokens=True) == prompt + completion


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = build_tokenizer("llama")
    tokenizer.eos_token = None
    with pytest.raises(InvalidModelError, match="names no eos_token"):
        encode(tokenizer, chat("a", "b"))
