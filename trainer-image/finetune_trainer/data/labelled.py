"""What labels and tags may be, and whether tags mark entities. Judges one row; must not know tokens or other rows."""

from collections.abc import Sequence
from typing import Any

from finetune_trainer.data.records import UnusableRowError, kind_of

LONGEST_LABEL = 128
"""Characters of a label that status can show; a longer one is text and no name of a class."""
OUTSIDE = "O"
_SCHEME = ("B-", "I-")


def label_of(value: Any, name: str) -> str:  # noqa: ANN401 - any JSON value
    """The class that `value`, called `name`, stands for: text without space around it, a whole number, true or false.

    Raises UnusableRowError.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise UnusableRowError(f"{name} is {kind_of(value)}; a label is text, a whole number, true or false")
    label = value.strip()
    if not label:
        raise UnusableRowError(f"{name} is empty")
    if len(label) > LONGEST_LABEL:
        raise UnusableRowError(f"{name} has {len(label)} characters; a label has at most {LONGEST_LABEL}")
    return label


def words_of(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - any JSON value
    """The words of a row. Raises UnusableRowError."""
    words = _listed(value, "tokens")
    for i, word in enumerate(words):
        if not isinstance(word, str):
            raise UnusableRowError(f"tokens[{i}] is {kind_of(word)}, not text")
        if not word.strip():
            raise UnusableRowError(f"tokens[{i}] is empty")
    return tuple(word.strip() for word in words)


def tags_of(value: Any, words: Sequence[str]) -> tuple[str, ...]:  # noqa: ANN401 - any JSON value
    """The tag of each of `words`. Raises UnusableRowError."""
    tags = _listed(value, "tags")
    if len(tags) != len(words):
        raise UnusableRowError(f"tags has {len(tags)} entries for {len(words)} tokens")
    return tuple(label_of(tag, f"tags[{i}]") for i, tag in enumerate(tags))


def _listed(value: Any, name: str) -> list[Any]:  # noqa: ANN401 - any JSON value
    if not isinstance(value, list):
        raise UnusableRowError(f"{name} is {kind_of(value)}, not a list")
    if not value:
        raise UnusableRowError(f"{name} is empty")
    return value


def marks_entities(labels: Sequence[str]) -> bool:
    """Whether `labels` are tags of the BIO scheme: O, B-type and I-type, with at least one type."""
    return any(label.startswith(_SCHEME) for label in labels) and all(
        label == OUTSIDE or label.startswith(_SCHEME) for label in labels
    )


def stray_tag(tags: Sequence[str]) -> str | None:
    """The first I-type that continues no entity of its type, as in `I-PER after O at word 3`; None without one."""
    before = OUTSIDE
    for number, tag in enumerate(tags, start=1):
        if tag.startswith("I-") and before not in (f"B-{tag[2:]}", tag):
            return f"{tag} after {before} at word {number}" if number > 1 else f"{tag} at word 1"
        before = tag
    return None


def kind_of_row(labels: Sequence[str], *, tagged: bool) -> str:
    """What rows are held out by, so that both sides have their share: the label, or the types of entities."""
    if not tagged:
        return labels[0]
    return ",".join(sorted({label[2:] if label.startswith(_SCHEME) else label for label in labels} - {OUTSIDE}))
