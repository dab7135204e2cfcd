"""How a conversation becomes text, and which characters of it the model should learn to write.

The answer's characters come from the `{% generation %}` markers of the template, else of the training template that
TRL ships for it, else from rendering the conversation turn by turn. Every answer ends with its end token and nothing
after it. The text is what a server renders, and the last answer: an earlier one that a server renders otherwise than
the model writes it (Qwen3 without the empty think block) is context. Must not guess: where turns cannot be told apart,
or a template leaves out tools, the job is refused with the way out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from finetune_trainer.data.messages import Message
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.data.tools import Tool
from finetune_trainer.errors import InvalidSpecError

Span = tuple[int, int]
"""Characters from start up to, not including, end."""


@dataclass(frozen=True)
class RenderedChat:
    """Text of a conversation; each span is a turn of the assistant with its end token."""

    text: str
    answers: tuple[Span, ...]
    """Turns that carry loss."""
    last: Span | None = None
    """The last turn, where turns were looked for."""
    rewritten: bool = False
    """Whether a turn that was to carry loss carries none, as a server renders it otherwise than the model writes it."""


class ChatRenderer:
    """Renders conversations with a tokenizer's chat template.

    `served` is the template as it travels with the model: it renders what an answer follows. What the model writes is
    taken from the variant with markers, which may keep in earlier answers what a server leaves out.
    Raises InvalidSpecError for a template that is not valid Jinja.
    """

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - any tokenizer
        self._tokenizer = tokenizer
        self._served = _default_template(tokenizer)
        self._check_syntax()
        self._marked = _marked_template(tokenizer, self._served)
        self._ends = tuple(end_tokens(tokenizer))
        self._cue = self._answer_cue()
        self._turn_end = self._end_of_turn()
        self._tools_checked = False

    def prompt(self, messages: tuple[Message, ...], tools: tuple[Tool, ...] = ()) -> str:
        """The conversation so far and the cue for the next answer, as a server renders it."""
        return self._render(messages, tools, add_generation_prompt=True)

    def render(
        self, messages: tuple[Message, ...], tools: tuple[Tool, ...] = (), silent: Iterable[int] = ()
    ) -> RenderedChat:
        """The whole conversation, which ends with an answer; `answers` leaves out the turns at the indices `silent`.

        Raises UnusableRowError when the template refuses the conversation, InvalidSpecError when it hides the turns or
        leaves out tools.
        """
        self._check_tools(messages, tools)
        text, answers = self._answers(messages, tools)
        silent = {*silent}
        asked = [span for turn, span in zip(_answering(messages), answers, strict=True) if turn not in silent]
        learnt = tuple(span for span in asked if span is not None)
        return RenderedChat(text, learnt, answers[-1] if answers else None, rewritten=len(learnt) < len(asked))

    def render_text(self, messages: tuple[Message, ...], tools: tuple[Tool, ...] = ()) -> str:
        """The whole conversation as a server renders it. Raises UnusableRowError, or InvalidSpecError as render."""
        self._check_tools(messages, tools)
        return self._render(messages, tools)

    def ends_with_end_token(self, text: str) -> bool:
        """Whether `text` ends with a special token."""
        return text.endswith(self._ends)

    def _answers(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> tuple[str, Sequence[Span | None]]:
        """The text and each of its answers; None for one that is only context."""
        text, spans = self._with_markers(messages, tools) if self._marked else self._by_prefixes(messages, tools)
        if len(_answering(messages)) != len(spans):
            raise UnusableRowError("the chat template leaves out an assistant's turn, or writes two as one")
        after_cue = [_after_cue(text, span, self._cue) for span in spans]
        exact = [self._until_end(text, span) for span in after_cue]
        if self._marked in (None, self._served) or text == self._render(messages, tools):
            return text, exact
        return self._as_served(messages, tools, text, exact)

    def _as_served(
        self, messages: tuple[Message, ...], tools: tuple[Tool, ...], marked: str, answers: list[Span]
    ) -> tuple[str, list[Span | None]]:
        """As _answers, of the variant's text `marked`: its last answer after the prompt that a server gives."""
        start = answers[-1][0]
        if not marked[:start].endswith(self._cue):
            raise UnusableRowError(
                f"a server asks for the last answer with {self._cue!r}, and the chat template writes this one "
                "otherwise: its reasoning is missing, or too much"
            )
        text = self.prompt(messages[:-1], tools) + marked[start:]
        written = [marked[first:end] for first, end in answers]
        turns = zip(_answering(messages), written, strict=True)
        return text, [self._place(text, messages[:turn], tools, answer) for turn, answer in turns]

    def _place(self, text: str, before: tuple[Message, ...], tools: tuple[Tool, ...], answer: str) -> Span | None:
        """Where `text` has `answer` right after the prompt that the turns `before` make; None where it does not."""
        try:
            prompt = self.prompt(before, tools)
        except UnusableRowError:  # nobody has asked yet
            return None
        return (len(prompt), len(prompt) + len(answer)) if text.startswith(prompt + answer) else None

    def _answer_cue(self) -> str:
        """What the template writes to ask for an answer, as in `<|im_start|>assistant`; its end at least."""
        question = ({"role": "user", "content": "a"},)
        try:
            asked, told = self._render(question, add_generation_prompt=True), self._render(question)
        except UnusableRowError:
            return ""
        return asked[_shared_length(asked, told) :]

    def _check_syntax(self) -> None:
        try:
            self._render(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
        except TemplateSyntaxError as error:
            raise InvalidSpecError(f"the chat template is not valid Jinja: line {error.lineno}: {error}") from error
        except UnusableRowError:
            return

    def _end_of_turn(self) -> str:
        """The special token that ends an answer, as in `<|im_end|>`; empty where the template writes none."""
        try:
            text = self._render(({"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}))
        except UnusableRowError:
            return ""
        tail = text.rpartition(_ANSWER)[2]
        found = [(tail.index(token), -len(token), token) for token in self._ends if token in tail]
        return min(found)[2] if found else ""

    def _until_end(self, text: str, span: Span) -> Span:
        """`span` up to and with its end token: what templates put after it, nobody generates."""
        start, end = span
        place = text.rfind(self._turn_end, start, end) if self._turn_end else -1
        if place >= 0 and _only_special(text[place:end], self._ends):
            return start, place + len(self._turn_end)
        return _trimmed(text, span, self._ends)

    def _check_tools(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> None:
        """Refuse a template that renders a conversation with tools as if there were none."""
        if any("reasoning_content" in message for message in messages) and not _reads_reasoning(self._served):
            raise UnusableRowError("it has reasoning_content, which the chat template does not read")
        if self._tools_checked or not (tools or any("tool_calls" in message for message in messages)):
            return
        missing = self._tool_parts_left_out()
        if missing:
            raise InvalidSpecError(
                f"the model's chat template leaves out {' and '.join(missing)}: dataset.tools needs a model that was "
                "made for function calling, or a template that renders tools in model.chatTemplate"
            )
        self._tools_checked = True

    def _tool_parts_left_out(self) -> list[str]:
        try:
            text = self._render(_TOOL_TALK, (_TOOL,))
        except UnusableRowError:
            return [*_TOOL_MARKS]
        return [part for part, mark in _TOOL_MARKS.items() if mark not in text]

    def _render(self, messages: tuple[Message, ...], tools: tuple[Tool, ...] = (), **options: object) -> str:
        given = {"tools": [*tools]} if tools else {}
        return str(self._applied(messages, chat_template=self._served, tokenize=False, **given, **options))

    def _applied(self, messages: tuple[Message, ...], **options: object) -> Any:  # noqa: ANN401 - text or encoding
        try:
            return self._tokenizer.apply_chat_template([dict(message) for message in messages], **options)
        except TemplateSyntaxError:
            raise
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise UnusableRowError(f"the chat template refuses it: {error}") from error

    def _with_markers(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        special = self._tokenizer.special_tokens_map
        try:
            texts, indices = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                tools=[*tools] or None,
                chat_template=self._marked,
                return_assistant_tokens_mask=True,
                **special,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise UnusableRowError(f"the chat template refuses it: {error}") from error
        return texts[0], _joined([(start, end) for start, end in indices[0] if end > start])

    def _by_prefixes(self, messages: tuple[Message, ...], tools: tuple[Tool, ...]) -> tuple[str, list[Span]]:
        text = self._render(messages, tools)
        spans = []
        for turn in _answering(messages):
            before = self._render(messages[:turn], tools, add_generation_prompt=True)
            until = text if turn == len(messages) - 1 else self._render(messages[: turn + 1], tools)
            if not (text.startswith(before) and text.startswith(until) and len(until) > len(before)):
                raise InvalidSpecError(_HIDDEN_TURNS)
            spans.append((len(before), len(until)))
        return text, spans


_ANSWER = "an-answer-to-find"
_TOOL_MARKS = {
    "the tools": "tool_to_find",
    "the assistant's calls": "argument_to_find",
    "the tools' results": "result_to_find",
}
_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": _TOOL_MARKS["the tools"],
        "description": "a probe",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
}
_CALL = {
    "type": "function",
    "function": {"name": "called", "arguments": {"a": _TOOL_MARKS["the assistant's calls"]}},
}
_TOOL_TALK: tuple[Message, ...] = (
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", **_CALL}]},
    {"role": "tool", "content": _TOOL_MARKS["the tools' results"], "name": "called", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "b"},
)
_HIDDEN_TURNS = (
    "the model's chat template has no {% generation %} markers, and renders a turn differently once another follows, "
    "so the assistant's tokens cannot be told apart. Set dataset.lossOn: all, train on conversations with a single "
    "answer, or give a template with markers in model.chatTemplate"
)


def end_tokens(tokenizer: Any) -> list[str]:  # noqa: ANN401 - any tokenizer
    """Special tokens of `tokenizer` as text: what can end a turn."""
    added = [str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*map(str, tokenizer.all_special_tokens), *added]))


def _default_template(tokenizer: Any) -> str:  # noqa: ANN401 - any tokenizer
    return str(tokenizer.get_chat_template())


def _marked_template(tokenizer: Any, served: str) -> str | None:  # noqa: ANN401 - any tokenizer
    """A template with generation markers that renders answers as `served` does the last one; None if none is known."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(served):
        return served
    try:
        patched = get_training_chat_template(tokenizer)
    except (ValueError, TypeError, TemplateError):
        return None
    return str(patched) if patched and has_generation_markers(patched) else None


def _answering(messages: tuple[Message, ...]) -> list[int]:
    """Indices of the assistant's turns."""
    return [i for i, message in enumerate(messages) if message["role"] == "assistant"]


def _reads_reasoning(template: str) -> bool:
    return "reasoning" in template or "thinking" in template


def _only_special(tail: str, tokens: tuple[str, ...]) -> bool:
    """Whether `tail` is made of special tokens and white space alone."""
    rest = tail
    for token in sorted(tokens, key=len, reverse=True):
        rest = rest.replace(token, "")
    return not rest.strip()


def _joined(spans: list[Span]) -> list[Span]:
    """Spans that touch become one: a template may mark an answer and its end token apart."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _shared_length(one: str, other: str) -> int:
    """Characters that both texts begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _after_cue(text: str, span: Span, cue: str) -> Span:
    """`span` without the cue or its end, which some templates put into the answer: a server writes that."""
    start, end = span
    inside = next((k for k in range(1, len(cue) + 1) if text[: start + k].endswith(cue)), 0)
    return (start + inside, end) if start + inside < end else span


def _trimmed(text: str, span: Span, ends: tuple[str, ...]) -> Span:
    """`span` without the line break that many templates put after the end token: nobody generates it."""
    start, end = span
    answer = text[start:end].rstrip()
    return (start, start + len(answer)) if answer.endswith(ends) else span
