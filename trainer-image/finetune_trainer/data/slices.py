"""A split with an optional slice, as in `train[:90%]`: pure arithmetic, the same as the datasets library's."""

import re
from dataclasses import dataclass

from finetune_trainer.errors import InvalidSpecError

DEFAULT_SPLIT = "train"
_SHAPE = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?$")


@dataclass(frozen=True)
class Slice:
    """A named split and the part of its rows to take; bounds are rows or, with a percent sign, hundredths of them."""

    split: str
    start: str | None = None
    stop: str | None = None

    @property
    def whole(self) -> bool:
        """Whether all rows are taken."""
        return self.start is None and self.stop is None

    def needs_total(self) -> bool:
        """Whether the number of rows must be known: for a percentage or a bound counted from the end."""
        return any(bound is not None and ("%" in bound or bound.startswith("-")) for bound in (self.start, self.stop))

    def bounds(self, total: int) -> tuple[int, int]:
        """First row, and the row after the last, of `total` rows, counted from 0."""
        start = 0 if self.start is None else _row(self.start, total)
        stop = total if self.stop is None else _row(self.stop, total)
        return start, max(start, stop)


def parse_slice(text: str | None, field: str) -> Slice:
    """The slice that `text` means; `train` when absent. Raises InvalidSpecError naming `field`."""
    if text is None:
        return Slice(DEFAULT_SPLIT)
    match = _SHAPE.match(text)
    if match is None:
        raise InvalidSpecError(
            f"{field}: {text!r} is not a split; write train, train[:4096], train[10%:20%] or train[-500:]"
        )
    for bound in (match["start"], match["stop"]):
        if bound and bound.endswith("%") and abs(int(bound[:-1])) > 100:
            raise InvalidSpecError(f"{field}: {text!r} asks for {bound}; a percentage lies between -100% and 100%")
    return Slice(match["name"], match["start"], match["stop"])


def _row(bound: str, total: int) -> int:
    row = round(int(bound[:-1]) * total / 100) if bound.endswith("%") else int(bound)
    if row < 0:
        row += total
    return min(max(row, 0), total)
