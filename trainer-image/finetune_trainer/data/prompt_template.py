"""dataset.template: prompt text with column names in braces, checked before any row is read."""

from dataclasses import dataclass
from string import Formatter
from typing import Any

from finetune_trainer.data.records import UnusableRowError, kind_of
from finetune_trainer.errors import InvalidSpecError


@dataclass(frozen=True)
class PromptTemplate:
    """Parsed template: literal text and column names in turn."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> list[str]:
        """Columns that the template uses, in order."""
        return list(dict.fromkeys(column for _, column in self.parts if column is not None))

    def render(self, columns: dict[str, Any]) -> str:
        """The text for one row. Raises UnusableRowError when a column is missing or is not plain text."""
        return "".join(text + ("" if name is None else _plain(columns, name)) for text, name in self.parts)


def parse_template(text: str) -> PromptTemplate:
    """The template in `text`. Raises InvalidSpecError; `{{` and `}}` are literal braces."""
    try:
        parts = [*Formatter().parse(text)]
    except ValueError as error:
        raise InvalidSpecError(f"dataset.template: {error}; write {{{{ and }}}} for literal braces") from error
    for _, name, format_spec, conversion in parts:
        if name is not None and (format_spec or conversion or not name or not name.isidentifier()):
            raise InvalidSpecError(
                f"dataset.template: {{{name}{'!' + conversion if conversion else ''}"
                f"{':' + format_spec if format_spec else ''}}} is not a plain column name in braces; "
                "write {{ and }} for literal braces"
            )
    template = PromptTemplate(tuple((literal, name) for literal, name, _, _ in parts))
    if not template.columns:
        raise InvalidSpecError("dataset.template names no column; write column names in braces, as in {question}")
    return template


def _plain(columns: dict[str, Any], name: str) -> str:
    value = columns.get(name)
    if value is None:
        raise UnusableRowError(f"column {name!r}, which dataset.template uses, is missing")
    if not isinstance(value, str | int | float | bool):
        raise UnusableRowError(f"column {name!r}, which dataset.template uses, is {kind_of(value)}, not text")
    return str(value)
