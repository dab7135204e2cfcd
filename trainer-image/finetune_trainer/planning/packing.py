"""How many sequences packing makes: best fit, longest row first, as TRL's bfd strategy does it. Pure."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def packed_count(lengths: Sequence[int], capacity: int) -> int:
    """Number of sequences of at most `capacity` tokens that rows of `lengths` tokens go into."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fit = bisect_left(free, length)
        room = free.pop(fit) if fit < len(free) else capacity
        insort(free, max(0, room - length))
    return len(free)
