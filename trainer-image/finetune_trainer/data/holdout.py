"""Which train rows are held out for evaluation. Pure: the same rows, fraction and seed give the same choice."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

STRATIFIED_UP_TO = 50
"""Most distinct answers that count as labels."""


def held_out(labels: Sequence[str | None], fraction: float, seed: int, most: int = STRATIFIED_UP_TO) -> list[int]:
    """Indices of the held-out rows among `len(labels)`, in order: round(fraction * rows), at least 1, never all.

    `labels` are the answers; where there are at most `most` different ones, each keeps its share, and one with two
    rows or more keeps at least one row to train on.
    """
    total = len(labels)
    if fraction <= 0 or total < 2:
        return []
    wanted = min(max(1, round(fraction * total)), total - 1)
    groups = _groups(labels, most)
    shares = _shares({label: len(rows) for label, rows in groups.items()}, wanted, total)
    chosen = [row for label, rows in groups.items() for row in _drawn(rows, shares[label], seed)]
    return sorted(chosen)


def held_out_whole(labels: Sequence[str | None], origins: Sequence[Hashable], fraction: float, seed: int) -> list[int]:
    """As held_out, but rows of one origin stay together, and `fraction` is that of the origins.

    An origin whose rows have several labels is a kind of its own.
    """
    rows_of: dict[Hashable, list[int]] = defaultdict(list)
    for row, origin in enumerate(origins):
        rows_of[origin].append(row)
    groups = [*rows_of.values()]
    chosen = held_out([_label_of(labels[row] for row in rows) for rows in groups], fraction, seed)
    return sorted(row for group in chosen for row in groups[group])


def _label_of(labels: Iterable[str | None]) -> str | None:
    known = sorted({label for label in labels if label is not None})
    return "\0".join(known) if known else None


def _groups(labels: Sequence[str | None], most: int) -> dict[str | None, list[int]]:
    groups: dict[str | None, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        groups[label].append(row)
    few = len(groups) <= most
    return groups if few else {None: [*range(len(labels))]}


def _shares(sizes: dict[str | None, int], wanted: int, total: int) -> dict[str | None, int]:
    """Rows to take of each label: its exact share rounded down, then one more by the largest remainder."""
    exact = {label: wanted * size / total for label, size in sizes.items()}
    shares = {label: min(int(share), max(sizes[label] - 1, 0)) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (shares[label] - exact[label], str(label)))
    for keep in (1, 0):
        for label in by_remainder:
            if sum(shares.values()) < wanted and shares[label] < sizes[label] - keep:
                shares[label] += 1
    return shares


def _drawn(rows: list[int], count: int, seed: int) -> list[int]:
    """`count` of `rows` in an order that depends on nothing but seed and row: no library's generator can change it."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row}".encode()).digest())[:count]
