"""Tables and headings of the generated reference pages."""

from collections.abc import Iterable, Sequence

from generation.crd import NOTICE


def page(title: str, introduction: str, *parts: str) -> str:
    """A page; its first line says where it comes from."""
    return "\n\n".join((f"<!-- {NOTICE} -->", f"# {title}", introduction, *parts)) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold any text."""
    lines = [heads, ["---"] * len(heads), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: str) -> str:
    """The value as code."""
    return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
