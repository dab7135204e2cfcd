"""How a conversation becomes text, and which characters of it the model should learn to write.

The answer's characters come from the `{% generation %}` markers of the template, else of the training template that
TRL ships for it, else from rendering the conversation turn by turn. Every answer ends with its end token and nothing
after it. Must not guess: where turns cannot be told apart, the job is refused with the way out.
"""

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from finetune_trainer.data.examples import Message
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidSpecError

Span = tuple[int, int]
"""Characters from start up to, not including, end."""


@dataclass(frozen=True)
class RenderedChat:
    """Text of a conversation, and the spans of the assistant's turns with their end tokens."""

    text: str
    answers: tuple[Span, ...]


class ChatRenderer:
    """Renders conversations with a tokenizer's chat template.

    `served` is the template as it travels with the model; training may use a variant that differs in markers only.
    Raises InvalidSpecError for a template that is not valid Jinja.
    """

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - any tokenizer
        self._tokenizer = tokenizer
        self._served = _default_template(tokenizer)
        self._check_syntax()
        self._marked = _marked_template(tokenizer, self._served)
        self._ends = tuple(end_tokens(tokenizer))
        self._cue = self._answer_cue()

    def prompt(self, messages: tuple[Message, ...]) -> str:
        """The conversation so far and the cue for the next answer, as a server renders it."""
        return self._render(messages, add_generation_prompt=True)

    def render(self, messages: tuple[Message, ...], first_answer: int = 0) -> RenderedChat:
        """The whole conversation; `answers` leaves out turns before index `first_answer`.

        Raises UnusableRowError when the template refuses the conversation, InvalidSpecError when it hides the turns.
        """
        text, spans = self._with_markers(messages) if self._marked else self._by_prefixes(messages)
        spans = spans[_answers_before(messages, first_answer) :]
        after_cue = [_after_cue(text, span, self._cue) for span in spans]
        return RenderedChat(text, tuple(_trimmed(text, span, self._ends) for span in after_cue))

    def render_text(self, messages: tuple[Message, ...]) -> str:
        """The whole conversation as a server renders it. Raises UnusableRowError."""
        return self._render(messages)

    def ends_with_end_token(self, text: str) -> bool:
        """Whether `text` ends with a special token."""
        return text.endswith(self._ends)

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

    def _render(self, messages: tuple[Message, ...], **options: object) -> str:
        return str(self._applied(messages, chat_template=self._served, tokenize=False, **options))

    def _applied(self, messages: tuple[Message, ...], **options: object) -> Any:  # noqa: ANN401 - text or encoding
        try:
            return self._tokenizer.apply_chat_template([dict(message) for message in messages], **options)
        except TemplateSyntaxError:
            raise
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise UnusableRowError(f"the chat template refuses it: {error}") from error

    def _with_markers(self, messages: tuple[Message, ...]) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        special = self._tokenizer.special_tokens_map
        try:
            texts, indices = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                chat_template=self._marked,
                return_assistant_tokens_mask=True,
                **special,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise UnusableRowError(f"the chat template refuses it: {error}") from error
        return texts[0], _joined([(start, end) for start, end in indices[0] if end > start])

    def _by_prefixes(self, messages: tuple[Message, ...]) -> tuple[str, list[Span]]:
        text = self._render(messages)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        spans = []
        for turn in turns:
            before = self._render(messages[:turn], add_generation_prompt=True)
            until = text if turn == len(messages) - 1 else self._render(messages[: turn + 1])
            if not (text.startswith(before) and text.startswith(until) and len(until) > len(before)):
                raise InvalidSpecError(_HIDDEN_TURNS)
            spans.append((len(before), len(until)))
        return text, spans


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
    """A template with generation markers that renders what `served` renders, or None where none is known."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(served):
        return served
    try:
        patched = get_training_chat_template(tokenizer)
    except (ValueError, TypeError, TemplateError):
        return None
    return str(patched) if patched and has_generation_markers(patched) else None


def _answers_before(messages: tuple[Message, ...], index: int) -> int:
    return sum(message["role"] == "assistant" for message in messages[:index])


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
    """`span` without the end of the cue, which some templates put into the answer: a server writes that."""
    start, end = span
    inside = next((k for k in range(1, len(cue)) if text[: start + k].endswith(cue)), 0)
    return (start + inside, end) if start + inside < end else span


def _trimmed(text: str, span: Span, ends: tuple[str, ...]) -> Span:
    """`span` without the line break that many templates put after the end token: nobody generates it."""
    start, end = span
    answer = text[start:end].rstrip()
    return (start, start + len(answer)) if answer.endswith(ends) else span
