"""What a row of preferences says: every layout that is read, and every row that is refused with its reason. Pure."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data.encoding import EncodedRow
from finetune_trainer.data.examples import Example, shape_of
from finetune_trainer.data.holdout import held_out_whole
from finetune_trainer.data.mismatches import partners
from finetune_trainer.data.parts import parts_of
from finetune_trainer.data.preferences import PreferenceShape, preference_shape
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidDataError, InvalidSpecError
from trainer_requests import make_spec

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text().partition("### Preferences")[2].partition("###")[0]
TAKEN = re.findall(r"^\{.+\}$", PAGE, re.MULTILINE)
REFUSED = re.findall(r"^\| `(\{.*?)` \| (.+) \|$", PAGE, re.MULTILINE)
USER, YO, NO = (
    {"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "yo"), ("assistant", "no"))
)
SYSTEM = {"role": "system", "content": "be kind"}
TALK = Example(messages=(USER, YO), first_answer=1, rejected=Example(messages=(USER, NO), first_answer=1))


def shape(columns: dict[str, Any], objective: str = "dpo", /, **dataset: Any) -> PreferenceShape:
    spec = make_spec(dataset={"train": {"source": "pvc://d/train.jsonl"}, **dataset})
    return preference_shape(spec.dataset, columns, "train.jsonl", objective)


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        (
            {"prompt": "hi", "chosen": "yo", "rejected": "no"},
            Example(prompt="hi", completion="yo", rejected=Example(prompt="hi", completion="no")),
        ),
        ({"prompt": [USER], "chosen": [YO], "rejected": [NO]}, TALK),
        ({"prompt": "hi", "chosen": [YO], "rejected": [NO]}, TALK),
        ({"prompt": [USER], "chosen": "yo", "rejected": "no"}, TALK),
        ({"chosen": [USER, YO], "rejected": [USER, NO]}, TALK),
        ({"prompt": "hi", "chosen": [USER, YO], "rejected": [USER, NO]}, TALK),
        ({"prompt": [USER], "chosen": [USER, YO], "rejected": [USER, NO]}, TALK),
        ({"input": {"messages": [USER]}, "preferred_output": [YO], "non_preferred_output": [NO]}, TALK),
        (
            {"chosen": [SYSTEM, USER, YO, USER, YO], "rejected": [SYSTEM, USER, YO, USER, NO]},
            Example(
                messages=(SYSTEM, USER, YO, USER, YO),
                first_answer=4,
                rejected=Example(messages=(SYSTEM, USER, YO, USER, NO), first_answer=4),
            ),
        ),
    ],
    ids=[
        "text",
        "turns",
        "text-and-turns",
        "turns-and-text",
        "implied",
        "repeated",
        "repeated-turns",
        "openai",
        "long",
    ],
)
def test_a_pair_is_read_in_every_layout(columns: dict[str, Any], want: Example) -> None:
    assert shape(columns).example(columns) == want


@pytest.mark.parametrize("label", [True, 1, "true", " TRUE "])
def test_a_single_answer_has_a_verdict(label: Any) -> None:
    columns = {"prompt": "hi", "completion": "yo", "label": label}
    assert shape(columns, "kto").example(columns) == Example(prompt="hi", completion="yo", desirable=True)


def test_columns_are_renamed_and_a_template_makes_the_prompt() -> None:
    columns = {"question": "hi", "good": "yo", "bad": "no"}
    found = shape(columns, columns={"chosen": "good", "rejected": "bad"}, template="Q: {question}")
    assert found.example(columns).prompt == "Q: hi"
    assert found.unused(columns | {"score": 1}) == ["score"]


@pytest.mark.parametrize("row", TAKEN)
def test_every_row_of_the_page_is_taken(row: str) -> None:
    columns = json.loads(row)
    found = shape(columns, "kto").example(columns)
    assert (found.rejected is None) is (found.desirable is True)


@pytest.mark.parametrize(("row", "want"), REFUSED)
def test_every_row_that_the_page_refuses_is_refused_with_its_reason(row: str, want: str) -> None:
    first = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(UnusableRowError, match=f"^{re.escape(want)}$"):
        shape(first).example(json.loads(row))


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        ({"prompt": "hi", "chosen": "yo", "rejected": ""}, "rejected is empty"),
        ({"prompt": "hi", "chosen": " ", "rejected": "no"}, "chosen is empty"),
        ({"prompt": "hi", "chosen": None, "rejected": "no"}, "chosen is missing"),
        ({"prompt": None, "chosen": "yo", "rejected": "no"}, "prompt is missing"),
        ({"prompt": "hi", "chosen": [YO], "rejected": "no"}, "chosen is a list, rejected is text; both must be text"),
        ({"chosen": [USER, YO], "rejected": [USER, YO]}, "chosen and rejected are the same"),
        ({"chosen": [USER, YO], "rejected": [SYSTEM, NO]}, "do not begin alike: both must answer the same prompt"),
        ({"chosen": [SYSTEM, USER, YO], "rejected": [SYSTEM, NO]}, "chosen goes on with a user turn after the common"),
        ({"chosen": [USER], "rejected": [USER, NO]}, "chosen ends where the common prompt ends"),
        ({"chosen": [USER, YO, USER], "rejected": [USER, NO]}, "chosen ends with a user turn"),
        ({"prompt": "what", "chosen": [USER, YO], "rejected": [USER, NO]}, "begin with another prompt than the column"),
        ({"chosen": [USER, {"role": "bot", "content": "a"}], "rejected": [USER, NO]}, r"chosen\[1\].role is 'bot'"),
        ({"input": "hi", "preferred_output": [YO], "non_preferred_output": [NO]}, "input is not an object with mess"),
        (
            {"input": {"messages": [USER]}, "preferred_output": "yo", "non_preferred_output": [NO]},
            "is text, not a list",
        ),
    ],
)
def test_a_pair_that_cannot_be_used_says_why(columns: dict[str, Any], want: str) -> None:
    found = shape({name: [USER] if name != "prompt" else "a" for name in columns})
    with pytest.raises(UnusableRowError, match=want):
        found.example(columns)


def test_a_verdict_that_is_none_says_what_to_write() -> None:
    columns = {"prompt": "hi", "completion": "yo", "label": "good"}
    with pytest.raises(UnusableRowError, match="label is 'good'; use true for an answer that is wanted"):
        shape(columns, "kto").example(columns)


@pytest.mark.parametrize(
    ("columns", "objective", "want"),
    [
        ({"question": "a", "good": "b"}, "dpo", "the columns question, good are no preferences: chosen and rejected"),
        ({"chosen": "a", "rejected": "b"}, "dpo", "chosen and rejected are text without a prompt; add the column"),
        (
            {"prompt": "a", "completion": "b", "label": True},
            "dpo",
            "training.objective: dpo compares two answers.*use training.objective: kto",
        ),
    ],
)
def test_columns_that_are_no_preferences_name_the_way_out(columns: dict[str, Any], objective: str, want: str) -> None:
    with pytest.raises(InvalidDataError, match=want):
        shape(columns, objective)


def test_loss_falls_on_the_answers_only() -> None:
    with pytest.raises(InvalidSpecError, match=r"dataset.lossOn: all does not fit the format preference"):
        shape({"prompt": "a", "chosen": "b", "rejected": "c"}, lossOn="all")


def test_tools_need_turns() -> None:
    with pytest.raises(InvalidSpecError, match=r"dataset\.tools: true needs rows with turns"):
        shape({"prompt": "a", "chosen": "b", "rejected": "c"}, tools=True)
    assert shape({"prompt": [USER], "chosen": [YO], "rejected": [NO]}, tools=True).tools


def test_preferences_in_another_task_name_the_one_that_takes_them() -> None:
    with pytest.raises(InvalidDataError, match=r"set task: preference and training.objective: dpo, orpo or kto"):
        shape_of(make_spec().dataset, {"prompt": "a", "chosen": "b", "rejected": "c"}, "train.jsonl")


# -- rows ---------------------------------------------------------------------------------------------------------

PAIR = EncodedRow([1, 2, 3, 4], [0, 0, 1, 1], [1, 2], "yo", other=EncodedRow([1, 2, 5], [0, 0, 1], [1, 2], "no"))


def test_a_pair_is_as_long_as_its_longer_answer_and_counts_the_tokens_of_both() -> None:
    assert (PAIR.length, PAIR.tokens, PAIR.supervised, PAIR.prompt) == (4, 7, 3, [1, 2])


def test_a_cut_takes_from_both_answers_and_notices_one_of_which_nothing_is_left() -> None:
    assert PAIR.cut(3).input_ids == [1, 2, 3]
    assert not PAIR.cut(3).silent
    assert PAIR.cut(2).silent


def test_kto_takes_the_answers_of_a_pair_one_by_one() -> None:
    wanted, unwanted = parts_of(PAIR, "kto", 8)
    assert (wanted.input_ids, wanted.desirable, wanted.other) == ([1, 2, 3, 4], True, None)
    assert (unwanted.input_ids, unwanted.desirable, unwanted.reference) == ([1, 2, 5], False, "no")
    assert parts_of(PAIR, "dpo", 8) == [PAIR]


def test_rows_of_one_prompt_are_never_on_both_sides() -> None:
    origins = [row // 3 for row in range(30)]
    labels = ["desirable" if row % 2 else "undesirable" for row in range(30)]
    chosen = held_out_whole(labels, origins, 0.2, 42)
    assert len(chosen) == 6
    assert len({origins[row] for row in chosen}) == 2


def test_every_prompt_gets_an_answer_to_another_one() -> None:
    prompts = [b"a", b"a", b"b", b"c", b"a"]
    found = partners(prompts, seed=1)
    assert all(prompts[row] != prompts[other] for row, other in enumerate(found))
    assert found == partners(prompts, seed=1)
    assert sorted(partners([b"a"] * 4, seed=1)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("length", "want"), [(4, [4]), (5, [4, 2]), (7, [4, 4]), (8, [4, 4, 2])])
def test_a_text_becomes_blocks_that_predict_every_token_once(length: int, want: list[int]) -> None:
    row = EncodedRow([*range(length)], [1] * length, [], "")
    blocks = parts_of(row, "pretrain", 4)
    assert [block.length for block in blocks] == want
    predicted = [
        t for block in blocks for t, carries in zip(block.input_ids[1:], block.mask[1:], strict=True) if carries
    ]
    assert predicted == [*range(1, length)]
    assert sum(block.supervised for block in blocks) == length
