"""How labelled text and tagged words become token ids, and at which tokens the class is told.

- text: the ids that the tokenizer gives it, as an application will; the class is told at the last of them. Padding at
  the end is taken away, because transformers looks for the last token that is not the padding token, which for many
  decoders is the end-of-sequence token too: both then mean the same place.
- words: the ids of the text that they make with single spaces between them; the tag is told at the first token of a
  word, and its other tokens carry no loss.

Nothing is cut here.
"""

from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.encoding import EncodedRow
from finetune_trainer.data.examples import Example
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidModelError


@dataclass(frozen=True)
class LabelledText(EncodedRow):
    """A row with one class, told at its last token."""

    def cut(self, limit: int) -> "LabelledText":
        """The first `limit` tokens; the class is told at the last of them."""
        ids = self.input_ids[:limit]
        return LabelledText(ids, _last_of(ids), self.prompt_ids, self.reference, self.labels)


@dataclass(frozen=True)
class TaggedWords(EncodedRow):
    """A row with a class at the first token of each word."""

    def cut(self, limit: int) -> "TaggedWords":
        """The first `limit` tokens, up to the last that begins a word, with the tags of the words that are left."""
        cut = super().cut(limit)
        labels = self.labels[: cut.supervised]
        return TaggedWords(cut.input_ids, cut.mask, self.prompt_ids, " ".join(labels), labels)


class HeadEncoder:
    """Encodes Examples that have labels. Raises InvalidModelError for a tokenizer that reports no character offsets."""

    templated = False
    """Whether a prompt becomes a user's turn: there is none."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401 - any tokenizer
        if not tokenizer.is_fast:
            raise InvalidModelError("the tokenizer has no fast form; save the model with a tokenizer.json")
        self._tokenizer = tokenizer

    def encode(self, example: Example) -> EncodedRow:
        """Token ids of `example`. Raises UnusableRowError."""
        return self._tagged(example) if example.words else self._labelled(example)

    def _labelled(self, example: Example) -> EncodedRow:
        ids = list(self._tokenizer(example.text)["input_ids"])
        while ids and ids[-1] == self._tokenizer.pad_token_id:
            ids.pop()
        if not ids:
            raise UnusableRowError("the tokenizer makes no token of its text")
        return LabelledText(ids, _last_of(ids), [], example.labels[0], example.labels)

    def _tagged(self, example: Example) -> EncodedRow:
        encoded = self._tokenizer(" ".join(example.words), return_offsets_mapping=True)
        ids = list(encoded["input_ids"])
        mask = [0] * len(ids)
        for place in _first_tokens(example.words, encoded["offset_mapping"]):
            mask[place] = 1
        return TaggedWords(ids, mask, [], " ".join(example.labels), example.labels)


def _last_of(ids: list[int]) -> list[int]:
    return [0] * (len(ids) - 1) + [1]


def _first_tokens(words: tuple[str, ...], offsets: list[tuple[int, int]]) -> list[int]:
    """Place of the first token of each word, of a text of `words` and single spaces. Raises UnusableRowError."""
    places: list[int] = []
    token = start = 0
    for number, word in enumerate(words, start=1):
        stop = start + len(word)
        while token < len(offsets) and offsets[token][1] <= start:
            token += 1  # of an earlier word, or special, which has no characters
        if token == len(offsets) or offsets[token][0] >= stop or (places and token == places[-1]):
            raise UnusableRowError(f"word {number}, {word[:40]!r}, has no token of its own")
        places.append(token)
        start = stop + 1
    return places
