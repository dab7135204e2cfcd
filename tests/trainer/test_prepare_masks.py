"""Which tokens carry loss, for every family: exactly the answers and their end tokens, whatever the text says."""

from typing import Any

import pytest

from finetune_trainer.data.encoding import EncodedRow, RowEncoder
from finetune_trainer.data.examples import Example, LossOn
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidModelError, InvalidSpecError
from tiny_models import FAMILIES, build_tokenizer

FAMILY = pytest.mark.parametrize("family", [*FAMILIES])
ANSWER_PREFIX = {"qwen3": "<think>\n\n</think>\n\n"}
"""What a family writes before an answer by its own template, and so learns to write."""
LAST_SUFFIX = {"phi3": "\n<|endoftext|>"}
"""What a family's template puts after the last end token."""
CUE = "{% if add_generation_prompt %}assistant: {% endif %}"
PLAIN_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + CUE
TRAILING_TEMPLATE = PLAIN_TEMPLATE + "{% if not add_generation_prompt %}THE END{% endif %}"


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {family: build_tokenizer(family) for family in FAMILIES}


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


def want_answer(family: str, answer: str, *, last: bool = True) -> str:
    end = FAMILIES[family].end_of_turn + (LAST_SUFFIX.get(family, "") if last else "")
    return ANSWER_PREFIX.get(family, "") + answer + end


@FAMILY
def test_the_mask_is_exactly_the_answer_and_its_end_token(family: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat("What is two plus three?", "five"))
    assert supervised(tokenizer, row) == [want_answer(family, "five")]


@FAMILY
def test_every_answer_of_a_conversation_carries_loss(family: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat("One?", "first", "Two?", "second"))
    want = [want_answer(family, "first", last=False), want_answer(family, "second")]
    assert supervised(tokenizer, row) == want


@FAMILY
def test_an_answer_that_repeats_the_question_is_not_mixed_up_with_it(family: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat("Paris", "Paris", "Paris", "Paris"))
    want = [want_answer(family, "Paris", last=False), want_answer(family, "Paris")]
    assert supervised(tokenizer, row) == want


@FAMILY
def test_end_tokens_written_by_a_user_carry_no_loss(family: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, chat(f"assistant {FAMILIES[family].end_of_turn} five", "six"))
    assert supervised(tokenizer, row) == [want_answer(family, "six")]


@FAMILY
def test_the_ids_are_what_a_server_would_render(family: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    example = chat("What is two plus three?", "five")
    row = encode(tokenizer, example)
    served = tokenizer.apply_chat_template(list(example.messages), return_dict=True)["input_ids"]
    assert row.input_ids == list(served)
    assert row.input_ids[: len(row.prompt_ids)] == row.prompt_ids
    assert not any(row.mask[: len(row.prompt_ids)])


@FAMILY
def test_there_is_never_a_second_beginning(family: str, tokenizers: dict[str, Any]) -> None:
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
def test_plain_continuation_supervises_completion_and_end(family: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, Example(prompt="News: oil fell. Topic?", completion=" crude"), "completion", "completion")
    assert supervised(tokenizer, row) == [f" crude{tokenizer.eos_token}"]
    assert row.prompt_ids == tokenizer("News: oil fell. Topic?")["input_ids"]
    assert (row.reference, row.input_ids[-1]) == (" crude", tokenizer.eos_token_id)


@FAMILY
def test_text_supervises_everything_and_ends(family: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    row = encode(tokenizer, Example(text="crude oil prices"), "all")
    assert row.input_ids[-1] == tokenizer.eos_token_id
    assert all(row.mask)
    assert (row.prompt_ids, row.reference) == ([], "")


@FAMILY
def test_a_prompt_on_a_chat_model_is_a_users_turn(family: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[family]
    pair = Example(prompt="two plus three?", completion="five")
    assert encode(tokenizer, pair, "completion") == encode(tokenizer, chat("two plus three?", "five"))


def test_loss_on_completion_of_a_conversation_is_its_last_answer(tokenizers: dict[str, Any]) -> None:
    row = encode(tokenizers["llama"], chat("One?", "first", "Two?", "second"), "completion")
    assert supervised(tokenizers["llama"], row) == ["second<|eot_id|>"]


def test_loss_on_all_covers_every_token(tokenizers: dict[str, Any]) -> None:
    assert all(encode(tokenizers["llama"], chat("One?", "first"), "all").mask)


def test_turns_of_the_prompt_carry_no_loss(tokenizers: dict[str, Any]) -> None:
    example = Example(messages=chat("One?", "first", "Two?", "second").messages, first_answer=3)
    assert supervised(tokenizers["llama"], encode(tokenizers["llama"], example, "completion")) == ["second<|eot_id|>"]


def test_a_conversation_that_the_template_refuses_is_a_bad_row(tokenizers: dict[str, Any]) -> None:
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
