"""What is read from a file, and what is wrong with it: one object per row, with its place, and the list of bad rows."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.errors import InvalidDataError

EXAMPLES = 5


@dataclass(frozen=True)
class Place:
    """Where a row stands: a file (or hub dataset) and a number from 1."""

    source: str
    number: int
    unit: str = "line"
    """line, row or item: what is counted."""

    def __str__(self) -> str:
        return f"{self.unit} {self.number}"


@dataclass(frozen=True)
class Record:
    """One row as read: columns, or the reason why it could not be read."""

    place: Place
    columns: dict[str, Any]
    problem: str | None = None


class UnusableRowError(Exception):
    """A row that cannot be used; the message is the reason."""


@dataclass
class BadRows:
    """Rows that cannot be used: the count, and the first few with their reasons."""

    count: int = 0
    examples: list[tuple[Place, str]] = field(default_factory=list)

    def add(self, place: Place, reason: str) -> None:
        """Count a row and keep it if it is among the first."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((place, reason))

    def refuse_above(self, allowed: int, total: int) -> None:
        """Raise InvalidDataError, naming rows and way out, when more than `allowed` of `total` rows are bad."""
        if self.count > allowed:
            raise InvalidDataError(f"{self.describe(total)}. {self._way_out(allowed)}")

    def describe(self, total: int) -> str:
        """`train.jsonl: 3 of 500 rows cannot be used: line 12: ...; line 30: ...`."""
        sources = list(dict.fromkeys(place.source for place, _ in self.examples))
        single = len(sources) == 1
        head = f"{sources[0]}: " if single else ""
        named = [f"{place}: {why}" if single else f"{place.source} {place}: {why}" for place, why in self.examples]
        more = [f"and {self.count - len(named)} more"] if self.count > len(named) else []
        rows = "row" if total == 1 else "rows"
        return f"{head}{self.count} of {total} {rows} cannot be used: {'; '.join([*named, *more])}"

    def _way_out(self, allowed: int) -> str:
        them = "it" if self.count == 1 else "them"
        limit = f" (now {allowed})" if allowed else ""
        return f"Fix {them}, or allow {them} with dataset.maxBadRows: {self.count}{limit}"


def text_of(value: Any, name: str) -> str:  # noqa: ANN401 - any JSON value
    """`value`, called `name`, if it is text that says something. Raises UnusableRowError."""
    if not isinstance(value, str):
        raise UnusableRowError(f"{name} is {kind_of(value)}, not text")
    if not value.strip():
        raise UnusableRowError(f"{name} is empty")
    return value


def require_unicode(columns: dict[str, Any]) -> None:
    """Raises UnusableRowError for half a character, which JSON can write and UTF-8, and so a tokenizer, cannot."""
    for name, value in columns.items():
        where = "the name of a column" if _surrogate(name) else name
        if broken := _surrogate(name) or _surrogate(value):
            raise UnusableRowError(f"{where} holds \\u{ord(broken):04x}, half of a character that was cut in two")


def _surrogate(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return "" if value.isascii() else next((one for one in value if "\ud800" <= one <= "\udfff"), "")
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_surrogate, parts)), "")


def column_names(columns: Iterable[str]) -> str:
    """Names for a message, in order, at most twelve."""
    names = [*columns]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def kind_of(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The JSON type of `value`, for a message."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def without_nulls(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """`value` without keys whose value is null, however deep: a table gives every object the keys of all others."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value
