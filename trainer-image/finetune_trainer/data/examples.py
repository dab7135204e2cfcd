"""What a row says: a conversation, a prompt with its completion, text, or what has labels.

Decides the format and judges each row. What a pair of answers says is preferences.py's, what a turn may say
messages.py's. Must not know any model: how an Example becomes tokens is encoding.py's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, cast, get_args

from finetune_api.heads import HEAD_FORMATS
from finetune_api.spec import DatasetSpec
from finetune_trainer.data.json_answers import AnswerCheck, with_text_answers
from finetune_trainer.data.labelled import label_of, tags_of, words_of
from finetune_trainer.data.messages import Message, checked_turns, silent_turns
from finetune_trainer.data.prompt_template import PromptTemplate, parse_template
from finetune_trainer.data.records import UnusableRowError, column_names, text_of
from finetune_trainer.data.tools import Tool, called_before_offered, parsed_tools
from finetune_trainer.errors import InvalidDataError, InvalidSpecError

Format = Literal["messages", "prompt-completion", "text", "preference", "labelled-text", "tagged-tokens"]
LossOn = Literal["assistant", "completion", "all", "label"]
NEEDED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt-completion": ("prompt", "completion"),
    "text": ("text",),
    "labelled-text": ("text", "label"),
    "tagged-tokens": ("tokens", "tags"),
    "preference": ("chosen", "rejected"),
}
LOSS_ON: dict[Format, tuple[LossOn, ...]] = {
    "messages": ("assistant", "completion", "all"),
    "prompt-completion": ("completion", "assistant", "all"),
    "text": ("all",),
    "labelled-text": ("label",),
    "tagged-tokens": ("label",),
    "preference": ("completion",),
}
"""Choices of dataset.lossOn by format, the default first."""
INSTRUCTION = ("instruction", "input", "output")
LIKELY_PAIRS = (("question", "answer"), ("input", "output"), ("query", "response"), ("document", "summary"))


@dataclass(frozen=True)
class Example:
    """One row as it is meant: exactly one of messages, prompt with completion, text, and words."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    """messages: functions that the assistant may call, as JSON schemas."""
    first_answer: int = 0
    """messages: index of the first turn that may carry loss."""
    silent: frozenset[int] = frozenset()
    """messages: indices of further turns that carry no loss: those of weight 0."""
    prompt: str = ""
    completion: str = ""
    text: str = ""
    words: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """The label of the text, or the tag of each word; empty for rows that have none."""
    rejected: "Example | None" = None
    """preference: the same prompt with the answer that is not wanted."""
    desirable: bool | None = None
    """preference: the verdict on a single answer; None for a pair and for every other format."""

    @property
    def answer(self) -> str:
        """What the model should say: the last turn, the completion; empty for text."""
        return self.messages[-1]["content"] if self.messages else self.completion


@dataclass(frozen=True)
class RowShape:
    """How the columns of every row become an Example."""

    format: Format
    loss_on: LossOn
    renames: dict[str, str]
    template: PromptTemplate | None = None
    instructions: bool = False
    """Whether the columns are instruction, input and output."""
    tools: bool = False
    """Whether tools and tool calls are rendered."""
    answers: AnswerCheck | None = None
    """task extraction: what the last answer of each row must be."""

    def example(self, columns: dict[str, Any]) -> Example:
        """The Example in `columns`. Raises UnusableRowError with the reason."""
        named = renamed(columns, self.renames)
        return _BUILDERS[self.format](self, named) if self.answers is None else self._structured(named, self.answers)

    def _structured(self, named: dict[str, Any], answers: AnswerCheck) -> Example:
        column = "output" if self.instructions else "completion"
        turns = self.template is None and isinstance(named.get("prompt"), list)
        example = _BUILDERS[self.format](self, with_text_answers(named, column, turns=turns))
        answers.value(example.answer, self._answer_place(example) if example.messages else column)
        return example

    def _answer_place(self, example: Example) -> str:
        """Where the last answer of a conversation stands; that of a prompt and its completion was put together."""
        if self.format == "messages":
            return f"messages[{len(example.messages) - 1}].content"
        return f"completion[{len(example.messages) - example.first_answer - 1}].content"

    def unused(self, columns: dict[str, Any]) -> list[str]:
        """Columns that nothing reads."""
        used = {*NEEDED[self.format], *(INSTRUCTION if self.instructions else ()), *self.renames.values()}
        used |= {"tools"} if self.format == "messages" else set()
        used |= {*(self.template.columns if self.template else ())}
        return [name for name in columns if name not in used]


_TEMPLATED = ("prompt-completion", "text", "labelled-text")
"""Formats with a part that dataset.template can write."""


def shape_of(dataset: DatasetSpec, columns: dict[str, Any], source: str, task: str = "chat") -> RowShape:
    """The shape of the rows of `source` for `task`, by the first row's `columns` and the spec.

    Raises InvalidSpecError or InvalidDataError; the message lists the columns there are and the way out.
    """
    check_renames(dataset.columns, columns, source)
    template = parse_template(dataset.template) if dataset.template else None
    named = renamed(columns, dataset.columns)
    check_template(template, named, source)
    chosen, instructions = _format(dataset, template, named, source, task)
    if dataset.tools and chosen != "messages":
        raise InvalidSpecError(f"dataset.tools: true needs rows with messages; {source} has the format {chosen}")
    if template and chosen not in _TEMPLATED:
        raise InvalidSpecError(
            f"dataset.template writes the prompt or the text of a row; {source} has the format {chosen}, which has "
            "neither: remove it, or set dataset.format"
        )
    answers = _answer_check(dataset, chosen, source) if task == "extraction" else None
    return RowShape(chosen, _loss_on(dataset, chosen), dataset.columns, template, instructions, dataset.tools, answers)


def _answer_check(dataset: DatasetSpec, chosen: Format, source: str) -> AnswerCheck:
    if chosen == "text":
        raise InvalidDataError(
            f"task: extraction needs an answer to each text, and {source} has texts only: give messages, or prompt and "
            "completion; rename with dataset.columns"
        )
    return AnswerCheck(dataset.answer_schema)


def renamed(columns: dict[str, Any], renames: dict[str, str]) -> dict[str, Any]:
    """Columns under their own names and under the canonical ones."""
    return {**columns, **{name: columns[column] for name, column in renames.items() if column in columns}}


def check_renames(renames: dict[str, str], columns: dict[str, Any], source: str) -> None:
    """Raises InvalidDataError for a renamed column that is not there."""
    for name, column in renames.items():
        if column not in columns:
            raise InvalidDataError(
                f"dataset.columns: {name}: {column}: {source} has no column {column!r}{_similar(column, columns)}; "
                f"it has {column_names(columns)}"
            )


def check_template(template: PromptTemplate | None, columns: dict[str, Any], source: str) -> None:
    """Raises InvalidDataError for a column of the template that is not there."""
    for name in template.columns if template else ():
        if name not in columns:
            raise InvalidDataError(
                f"dataset.template uses {{{name}}}: {source} has no such column{_similar(name, columns)}; "
                f"it has {column_names(columns)}"
            )


def _similar(name: str, columns: dict[str, Any]) -> str:
    close = get_close_matches(name, [*columns], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _format(
    dataset: DatasetSpec, template: PromptTemplate | None, columns: dict[str, Any], source: str, task: str
) -> tuple[Format, bool]:
    """The format, and whether the columns are instruction, input and output."""
    available = {*columns, *({"prompt", "text"} if template else ())}
    instructions = template is None and "prompt" not in columns and {"instruction", "output"} <= available
    if instructions:
        available |= {"prompt", "completion"}
    if dataset.format != "auto" or task in HEAD_FORMATS:
        return _asked_format(dataset, task, available, columns, source), instructions
    for candidate in _candidates(template is not None):
        if available.issuperset(NEEDED[candidate]):
            return candidate, instructions and candidate == "prompt-completion"
    raise InvalidDataError(f"{source}: {_no_format(columns)}")


def _candidates(templated: bool) -> tuple[Format, ...]:
    return ("prompt-completion", "text") if templated else ("messages", "prompt-completion", "text")


def _asked_format(dataset: DatasetSpec, task: str, available: set[str], columns: dict[str, Any], source: str) -> Format:
    """The format that the spec names, or the only one that the task has."""
    name = HEAD_FORMATS.get(task, dataset.format)
    if name not in get_args(Format):
        raise InvalidSpecError(f"dataset.format: {name} is not one of {', '.join(get_args(Format))}")
    asked = cast("Format", name)
    missing = [name for name in NEEDED[asked] if name not in available]
    if missing:
        raise InvalidDataError(
            f"dataset.format: {asked} needs the column {missing[0]!r}; {source} has {column_names(columns)}. "
            f"Rename with dataset.columns: {{{missing[0]}: <column>}}"
        )
    return asked


def _no_format(columns: dict[str, Any]) -> str:
    found = f"the columns {column_names(columns)} are no known format"
    if {"chosen", "rejected"} <= {*columns}:
        return f"{found} for this task; set task: preference and training.objective: dpo, orpo or kto"
    if "conversations" in columns:
        return f"{found}; turn conversations into messages with role and content, or rename with dataset.columns"
    for prompt, completion in LIKELY_PAIRS:
        if prompt in columns and completion in columns:
            return f"{found}; set dataset.columns: {{prompt: {prompt}, completion: {completion}}}"
    return (
        f"{found}: messages, prompt and completion, or text. Rename with dataset.columns: {{prompt: <column>, "
        "completion: <column>}, or build the prompt with dataset.template"
    )


def _loss_on(dataset: DatasetSpec, chosen: Format) -> LossOn:
    choices = LOSS_ON[chosen]
    if dataset.loss_on is None:
        return choices[0]
    if dataset.loss_on not in choices:
        raise InvalidSpecError(
            f"dataset.lossOn: {dataset.loss_on} does not fit the format {chosen}; choose {' or '.join(choices)}"
        )
    return dataset.loss_on


def _conversation(shape: RowShape, columns: dict[str, Any]) -> Example:
    messages = checked_conversation(required_value(columns, "messages"), "messages", tools=shape.tools)
    return conversation_of(shape, columns, messages, first_answer=0)


def conversation_of(
    shape: RowShape, columns: dict[str, Any], messages: tuple[Message, ...], first_answer: int
) -> Example:
    """The Example of checked `messages`, whose answers begin at index `first_answer`. Raises UnusableRowError."""
    silent = silent_turns(messages)
    answers = {turn for turn in range(first_answer, len(messages)) if messages[turn]["role"] == "assistant"}
    if answers <= silent:
        raise UnusableRowError("every assistant turn has weight 0, so there is nothing to learn")
    spoken = tuple({key: value for key, value in message.items() if key != "weight"} for message in messages)
    return Example(spoken, _tools(shape, columns, spoken), first_answer, silent)


def _tools(shape: RowShape, columns: dict[str, Any], messages: tuple[Message, ...]) -> tuple[Tool, ...]:
    if not shape.tools:
        if columns.get("tools"):
            raise UnusableRowError("it has tools, which are rendered with dataset.tools: true only")
        return ()
    tools = parsed_tools(columns.get("tools"))
    if name := called_before_offered(messages, tools):
        raise UnusableRowError(f"{name} is called and is not among its tools")
    return tools


def _prompted(shape: RowShape, columns: dict[str, Any]) -> Example:
    if shape.instructions:
        return _instructed(columns)
    prompt = shape.template.render(columns) if shape.template else required_value(columns, "prompt")
    completion = required_value(columns, "completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return _split_conversation(shape, columns)
    return Example(prompt=text_of(prompt, "prompt"), completion=text_of(completion, "completion"))


def _instructed(columns: dict[str, Any]) -> Example:
    instruction = text_of(required_value(columns, "instruction"), "instruction")
    extra = columns.get("input")
    is_blank = extra is None or (isinstance(extra, str) and not extra.strip())
    prompt = instruction if is_blank else f"{instruction}\n\n{text_of(extra, 'input')}"
    return Example(prompt=prompt, completion=text_of(required_value(columns, "output"), "output"))


def _split_conversation(shape: RowShape, columns: dict[str, Any]) -> Example:
    prompt = checked_turns(columns["prompt"], "prompt", tools=shape.tools)
    checked_turns(columns["completion"], "completion", tools=shape.tools)
    messages = checked_conversation([*columns["prompt"], *columns["completion"]], "messages", tools=shape.tools)
    return conversation_of(shape, columns, messages, first_answer=len(prompt))


def _plain_text(shape: RowShape, columns: dict[str, Any]) -> Example:
    value = shape.template.render(columns) if shape.template else required_value(columns, "text")
    return Example(text=text_of(value, "text"))


def _labelled(shape: RowShape, columns: dict[str, Any]) -> Example:
    text = _plain_text(shape, columns).text
    return Example(text=text, labels=(label_of(required_value(columns, "label"), "label"),))


def _tagged(_shape: RowShape, columns: dict[str, Any]) -> Example:
    words = words_of(required_value(columns, "tokens"))
    return Example(words=words, labels=tags_of(required_value(columns, "tags"), words))


_BUILDERS: dict[Format, Callable[[RowShape, dict[str, Any]], Example]] = {
    "messages": _conversation,
    "prompt-completion": _prompted,
    "text": _plain_text,
    "labelled-text": _labelled,
    "tagged-tokens": _tagged,
}


def required_value(columns: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - any JSON value
    """What column `name` holds. Raises UnusableRowError when it is absent or null."""
    if columns.get(name) is None:
        raise UnusableRowError(f"{name} is missing")
    return columns[name]


def checked_conversation(value: Any, name: str, *, tools: bool) -> tuple[Message, ...]:  # noqa: ANN401 - any JSON value
    """A conversation that can be trained on: it has an answer, and ends with one."""
    messages = checked_turns(value, name, tools=tools)
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise UnusableRowError(f"{name} has no assistant turn, so there is nothing to learn")
    if roles[-1] != "assistant":
        raise UnusableRowError(f"{name} ends with a {roles[-1]} turn; the last one must be the assistant's")
    return messages
