"""How an Example becomes token ids, and which of them carry loss.

- messages, and prompts with completions on a model with a chat template: rendered by the template, the prompt as the
  user's turn and the completion as the assistant's. Loss on exactly the answers and their end tokens, but for earlier
  answers that a server renders otherwise than the model writes them.
- prompts with completions on a model without one, and always in `task: completion`: plain continuation, the completion
  right after the prompt. Loss on the completion and the end-of-sequence token.
- text: loss on everything and the end-of-sequence token.
- preference: each answer as one of the first two, after the very same prompt.

Nothing is cut here. Must never emit two beginning-of-sequence tokens, nor an answer without an end.
"""

from dataclasses import dataclass, replace
from typing import Any

from finetune_trainer.data.chat import ChatRenderer, RenderedChat, Span
from finetune_trainer.data.examples import Example, LossOn
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidModelError, InvalidSpecError


@dataclass(frozen=True)
class EncodedRow:
    """Token ids of one row; `mask` is 1 where a token carries loss, and as long as `input_ids`."""

    input_ids: list[int]
    mask: list[int]
    prompt_ids: list[int]
    """What the model is given in evaluation; empty for text."""
    reference: str
    """What it should answer; empty for text."""
    labels: tuple[str, ...] = ()
    """For a head of classes: the class at each token that carries loss."""
    other: "EncodedRow | None" = None
    """Preferences: the same prompt with another answer, the rejected one of a pair."""
    desirable: bool | None = None
    """Preferences: the verdict on a single answer."""
    rewritten: bool = False
    """Whether an answer that was to carry loss carries none: a server renders it otherwise than the model writes it."""

    @property
    def length(self) -> int:
        """Tokens of the row; of the longer sequence where there are two."""
        return max(len(self.input_ids), self.other.length if self.other else 0)

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        return len(self.input_ids) + (self.other.tokens if self.other else 0)

    @property
    def supervised(self) -> int:
        """Tokens that carry loss, of all its sequences."""
        return sum(self.mask) + (self.other.supervised if self.other else 0)

    @property
    def silent(self) -> bool:
        """Whether a sequence of it has no token that carries loss."""
        return not any(self.mask) or (self.other is not None and self.other.silent)

    @property
    def prompt(self) -> list[int]:
        """Tokens before the first one that carries loss."""
        return self.input_ids[: self.mask.index(1)] if any(self.mask) else self.input_ids

    def cut(self, limit: int) -> "EncodedRow":
        """The first `limit` tokens, without those at their end that carry no loss: half a turn of somebody else."""
        end = next((i for i in range(min(limit, len(self.mask)), 0, -1) if self.mask[i - 1]), 0)
        other = self.other.cut(limit) if self.other else None
        return replace(self, input_ids=self.input_ids[:end], mask=self.mask[:end], other=other)


class RowEncoder:
    """Encodes Examples with one tokenizer. `chat` says whether prompts go through its chat template.

    Raises InvalidModelError when the tokenizer reports no character offsets or has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any, *, loss_on: LossOn, task: str) -> None:  # noqa: ANN401 - any tokenizer
        if not tokenizer.is_fast:
            raise InvalidModelError("the tokenizer has no fast form; save the model with a tokenizer.json")
        if tokenizer.eos_token_id is None:
            raise InvalidModelError("the tokenizer names no eos_token in tokenizer_config.json: an answer has no end")
        self._tokenizer = tokenizer
        self._loss_on = loss_on
        self._chat = ChatRenderer(tokenizer) if tokenizer.chat_template else None
        self.templated = self._chat is not None and task != "completion"
        """Whether a prompt becomes a user's turn."""

    def encode(self, example: Example) -> EncodedRow:
        """Token ids of `example`. Raises UnusableRowError, or InvalidSpecError for a template that hides the turns."""
        row = self._sequence(example)
        if example.rejected is not None:
            return _paired(row, self._sequence(example.rejected))
        return replace(row, desirable=example.desirable)

    def _sequence(self, example: Example) -> EncodedRow:
        if example.messages:
            return self._conversation(example)
        if example.text:
            return self._text(example.text)
        if self.templated:
            return self._conversation(_as_conversation(example))
        return self._continuation(example)

    def _conversation(self, example: Example) -> EncodedRow:
        if self._chat is None:
            raise InvalidSpecError(
                "the model has no chat template, so messages cannot be rendered: set model.chatTemplate, take an "
                "instruction-tuned model, or give the data as prompt and completion"
            )
        rendered = self._rendered(self._chat, example)
        encoded = self._tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
        ids, mask = list(encoded["input_ids"]), _mask(encoded["offset_mapping"], rendered.answers)
        if not self._chat.ends_with_end_token(rendered.text.rstrip()):
            spoken = len(example.messages) - 1 not in example.silent
            ids, mask = [*ids, self._tokenizer.eos_token_id], [*mask, int(spoken or self._loss_on == "all")]
        prompt = self._chat.prompt(example.messages[:-1], example.tools)
        prompt_ids = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        reference = self._reference(example, rendered, prompt)
        return EncodedRow(ids, mask, list(prompt_ids), reference, rewritten=rendered.rewritten)

    def _rendered(self, chat: ChatRenderer, example: Example) -> RenderedChat:
        if self._loss_on == "all":
            text = chat.render_text(example.messages, example.tools)
            return RenderedChat(text, ((0, len(text)),))
        last = len(example.messages) - 1
        last_only = self._loss_on == "completion" and not example.first_answer
        silent = {*range(last if last_only else example.first_answer), *example.silent}
        return chat.render(example.messages, example.tools, silent)

    def _reference(self, example: Example, rendered: RenderedChat, prompt: str) -> str:
        """The last answer as generation gives it back: a call of a tool as the template writes it."""
        if "tool_calls" not in example.messages[-1]:
            return example.answer
        start, end = rendered.last or (len(prompt), len(rendered.text))
        ids = self._tokenizer(rendered.text[start:end], add_special_tokens=False)["input_ids"]
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _continuation(self, example: Example) -> EncodedRow:
        prompt = self._begun(example.prompt)
        whole = self._begun(example.prompt + example.completion)
        if whole[: len(prompt)] != prompt:
            # A token spans the border. A server sees the prompt's own tokens, so these are what is trained on.
            whole = [*prompt, *self._tokenizer(example.completion, add_special_tokens=False)["input_ids"]]
        ids = self._ended(whole)
        unsupervised = 0 if self._loss_on == "all" else len(prompt)
        return EncodedRow(ids, _ones_from(unsupervised, len(ids)), prompt, example.completion)

    def _text(self, text: str) -> EncodedRow:
        ids = self._ended(self._begun(text))
        return EncodedRow(ids, _ones_from(0, len(ids)), [], "")

    def _begun(self, text: str) -> list[int]:
        """Ids of `text` with the tokenizer's own beginning, once, and no end."""
        bos, eos = self._tokenizer.bos_token, self._tokenizer.eos_token_id
        special = not (bos and text.startswith(bos))
        ids = list(self._tokenizer(text, add_special_tokens=special)["input_ids"])
        return ids[:-1] if len(ids) > 1 and ids[-1] == eos and not text.endswith(self._tokenizer.eos_token) else ids

    def _ended(self, ids: list[int]) -> list[int]:
        eos = self._tokenizer.eos_token_id
        return ids if ids and ids[-1] == eos else [*ids, eos]


def _paired(chosen: EncodedRow, rejected: EncodedRow) -> EncodedRow:
    """One row of both. Raises UnusableRowError unless they are different answers to the very same tokens."""
    if chosen.input_ids == rejected.input_ids:
        raise UnusableRowError("chosen and rejected are the same, so nothing is preferred")
    if chosen.prompt != rejected.prompt:
        raise UnusableRowError(
            "its prompt becomes other tokens before chosen than before rejected: a token spans prompt and answer, or "
            "the chat template renders the prompt by what follows it"
        )
    return replace(chosen, other=rejected, rewritten=chosen.rewritten or rejected.rewritten)


def _as_conversation(example: Example) -> Example:
    turns = ({"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.completion})
    return Example(messages=turns)


def _mask(offsets: list[Span], answers: tuple[Span, ...]) -> list[int]:
    """1 for each token that has a character of an answer."""
    return [int(any(start < last and stop > first for first, last in answers)) for start, stop in offsets]


def _ones_from(start: int, length: int) -> list[int]:
    return [0] * start + [1] * (length - start)
