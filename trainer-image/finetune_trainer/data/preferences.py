"""What a row of preferences says: two answers to one prompt and which is better, or one answer and whether it is good.

Decides how the columns are read and judges each row. What an answer may say is examples.py's, how it becomes tokens is
encoding.py's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetune_api.spec import DatasetSpec
from finetune_trainer.data.examples import (
    Example,
    RowShape,
    check_renames,
    check_template,
    checked_conversation,
    conversation_of,
    renamed,
    required_value,
)
from finetune_trainer.data.messages import Message, checked_turns
from finetune_trainer.data.prompt_template import parse_template
from finetune_trainer.data.records import UnusableRowError, column_names, kind_of, text_of
from finetune_trainer.errors import InvalidDataError, InvalidSpecError

Layout = Literal["pair", "openai", "verdict"]
COLUMNS: dict[Layout, tuple[str, ...]] = {
    "pair": ("chosen", "rejected"),
    "openai": ("input", "preferred_output", "non_preferred_output"),
    "verdict": ("prompt", "completion", "label"),
}
"""Columns by which a layout is known, in the order in which layouts are looked for."""
_SPOKEN = ("prompt", "chosen", "completion", "input")
"""Columns that may hold turns."""
SAME = "chosen and rejected are the same, so nothing is preferred"
_VERDICTS = {"true": True, "1": True, "false": False, "0": False}
"""Labels as CSV and JSON spell them."""


@dataclass(frozen=True)
class PreferenceShape(RowShape):
    """How the columns of every row become a preference."""

    layout: Layout = "pair"

    def example(self, columns: dict[str, Any]) -> Example:
        """The chosen answer with the rejected one, or an answer with its verdict. Raises UnusableRowError."""
        return _BUILDERS[self.layout](self, renamed(columns, self.renames))

    def unused(self, columns: dict[str, Any]) -> list[str]:
        """Columns that nothing reads."""
        used = {*COLUMNS[self.layout], "prompt", *(("tools",) if self.tools else ()), *self.renames.values()}
        used |= {*(self.template.columns if self.template else ())}
        return [name for name in columns if name not in used]


def preference_shape(dataset: DatasetSpec, columns: dict[str, Any], source: str, objective: str) -> PreferenceShape:
    """The shape of the rows of `source`, by the first row's `columns`, the spec, and what training.objective can take.

    Raises InvalidSpecError or InvalidDataError; the message lists the columns there are and the way out.
    """
    check_renames(dataset.columns, columns, source)
    template = parse_template(dataset.template) if dataset.template else None
    named = renamed(columns, dataset.columns)
    check_template(template, named, source)
    if dataset.loss_on not in (None, "completion"):
        raise InvalidSpecError(
            f"dataset.lossOn: {dataset.loss_on} does not fit the format preference, where loss falls on the answers; "
            "remove it"
        )
    layout = _layout({*named, *({"prompt"} if template else ())}, named, source)
    _check_layout(layout, named, source, objective, templated=template is not None, tools=dataset.tools)
    return PreferenceShape("preference", "completion", dataset.columns, template, tools=dataset.tools, layout=layout)


def _layout(available: set[str], columns: dict[str, Any], source: str) -> Layout:
    for layout, needed in COLUMNS.items():
        if available.issuperset(needed):
            return layout
    raise InvalidDataError(
        f"{source}: the columns {column_names(columns)} are no preferences: chosen and rejected, with prompt unless "
        "both are whole conversations, or for training.objective: kto prompt, completion and label. Rename with "
        "dataset.columns: {chosen: <column>, rejected: <column>}"
    )


def _check_layout(
    layout: Layout, columns: dict[str, Any], source: str, objective: str, *, templated: bool, tools: bool
) -> None:
    if layout == "verdict" and objective != "kto":
        raise InvalidDataError(
            f"training.objective: {objective} compares two answers, and {source} has single ones (completion, label); "
            "use training.objective: kto, or give rows with chosen and rejected"
        )
    if tools and not any(isinstance(columns.get(name), list | dict) for name in _SPOKEN):
        raise InvalidSpecError(f"dataset.tools: true needs rows with turns; {source} has text")
    whole = isinstance(columns.get("chosen"), list)
    if layout == "pair" and not (whole or templated or "prompt" in columns):
        raise InvalidDataError(
            f"{source}: chosen and rejected are text without a prompt; add the column prompt, rename one with "
            "dataset.columns: {prompt: <column>}, or give whole conversations"
        )


def _pair(shape: PreferenceShape, columns: dict[str, Any]) -> Example:
    prompt = shape.template.render(columns) if shape.template else columns.get("prompt")
    chosen, rejected = required_value(columns, "chosen"), required_value(columns, "rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _two_conversations(shape, columns, prompt, chosen, rejected)
    if isinstance(chosen, list) or isinstance(rejected, list):
        raise UnusableRowError(
            f"chosen is {kind_of(chosen)}, rejected is {kind_of(rejected)}; both must be text, or both lists of turns"
        )
    if prompt is None:
        raise UnusableRowError("prompt is missing")
    return _preferred(
        _answered(shape, columns, prompt, chosen, "chosen"), _answered(shape, columns, prompt, rejected, "rejected")
    )


def _openai(shape: PreferenceShape, columns: dict[str, Any]) -> Example:
    asked = required_value(columns, "input")
    if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list):
        raise UnusableRowError("input is not an object with messages")
    tools = {"tools": asked["tools"]} if asked.get("tools") else {}
    chosen = required_value(columns, "preferred_output")
    rejected = required_value(columns, "non_preferred_output")
    for name, value in (("preferred_output", chosen), ("non_preferred_output", rejected)):
        if not isinstance(value, list):
            raise UnusableRowError(f"{name} is {kind_of(value)}, not a list of turns")
    return _two_conversations(shape, columns | tools, asked["messages"], chosen, rejected)


def _verdict(shape: PreferenceShape, columns: dict[str, Any]) -> Example:
    prompt = shape.template.render(columns) if shape.template else required_value(columns, "prompt")
    label = required_value(columns, "label")
    desirable = _VERDICTS.get(str(label).strip().lower())
    if desirable is None:
        raise UnusableRowError(f"label is {label!r}; use true for an answer that is wanted, false for one that is not")
    answered = _answered(shape, columns, prompt, required_value(columns, "completion"), "completion")
    return replace(answered, desirable=desirable)


_BUILDERS: dict[Layout, Callable[[PreferenceShape, dict[str, Any]], Example]] = {
    "pair": _pair,
    "openai": _openai,
    "verdict": _verdict,
}


def _answered(shape: PreferenceShape, columns: dict[str, Any], prompt: object, answer: object, name: str) -> Example:
    """One answer, the column `name`, to `prompt`: each is text or a list of turns."""
    if not isinstance(prompt, list) and not isinstance(answer, list):
        return Example(prompt=text_of(prompt, "prompt"), completion=text_of(answer, name))
    asked = _turns(shape, prompt, "prompt", "user")
    said = _turns(shape, answer, name, "assistant")
    _require_answer(said[0], name)
    return _conversation(shape, columns, (*asked, *said), len(asked), name)


def _turns(shape: PreferenceShape, value: object, name: str, role: str) -> tuple[Message, ...]:
    """Turns of the column `name`; text is one turn of `role`."""
    if isinstance(value, list):
        return checked_turns(value, name, tools=shape.tools)
    return ({"role": role, "content": text_of(value, name)},)


def _two_conversations(
    shape: PreferenceShape, columns: dict[str, Any], prompt: object, chosen: list[Any], rejected: list[Any]
) -> Example:
    """Answers as turns: to `prompt`, or whole conversations, whose common beginning is the prompt."""
    said = checked_turns(chosen, "chosen", tools=shape.tools), checked_turns(rejected, "rejected", tools=shape.tools)
    if said[0] == said[1]:
        raise UnusableRowError(SAME)
    asked = _turns(shape, prompt, "prompt", "user") if prompt is not None else ()
    if asked and not _repeats(asked, said):
        whole = (*asked, *said[0]), (*asked, *said[1])
        first = len(asked)
    else:
        whole, first = said, _common_length(*said)
    if first == 0:
        raise UnusableRowError("chosen and rejected do not begin alike: both must answer the same prompt")
    for turns, name in zip(whole, ("chosen", "rejected"), strict=True):
        if first == len(turns):
            raise UnusableRowError(f"{name} ends where the common prompt ends: it has no answer of its own")
        _require_answer(turns[first], name)
    return _preferred(
        _conversation(shape, columns, whole[0], first, "chosen"),
        _conversation(shape, columns, whole[1], first, "rejected"),
    )


def _repeats(asked: tuple[Message, ...], said: tuple[tuple[Message, ...], ...]) -> bool:
    """Whether the answers are whole conversations, which begin with the prompt once more.

    Raises UnusableRowError when they are conversations with another prompt.
    """
    if all(turns[0]["role"] == "assistant" for turns in said):
        return False
    common = said[0][: _common_length(*said)]
    if any(common[i : i + len(asked)] == asked for i in range(len(common))):
        return True
    raise UnusableRowError("chosen and rejected begin with another prompt than the column prompt")


def _common_length(one: tuple[Message, ...], other: tuple[Message, ...]) -> int:
    """Turns that both begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _require_answer(turn: Message, name: str) -> None:
    if turn["role"] != "assistant":
        raise UnusableRowError(
            f"{name} goes on with a {turn['role']} turn after the common prompt; both must answer the same prompt, as "
            "the assistant"
        )


def _conversation(
    shape: PreferenceShape, columns: dict[str, Any], turns: tuple[Message, ...], first: int, name: str
) -> Example:
    return conversation_of(shape, columns, checked_conversation([*turns], name, tools=shape.tools), first)


def _preferred(chosen: Example, rejected: Example) -> Example:
    if chosen == rejected:
        raise UnusableRowError(SAME)
    return replace(chosen, rejected=rejected)
