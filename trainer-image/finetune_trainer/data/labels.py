"""The labels of a source: which row has which, what is wrong with them, and the classes that they make.

Decides the order of the classes. Keeps a reference or two per row in memory, never the rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_api.status import LABELS_LIMIT, LabelCount
from finetune_trainer.data.labelled import kind_of_row, stray_tag
from finetune_trainer.data.records import BadRows, Place
from finetune_trainer.errors import InvalidDataError

MOST_LABELS = 1024
"""Classes beyond which the column is a number, an id or an answer rather than a label."""
_NAMED = 12


@dataclass
class LabelTally:
    """The labels of the usable rows of a source, in their order; empty for rows without labels."""

    rows: list[frozenset[str]] = field(default_factory=list)
    """Different labels of each row; equal sets are one object."""
    kinds: list[str] = field(default_factory=list)
    """What each row is held out by."""
    places: dict[str, Place] = field(default_factory=dict)
    """The first row that has the label."""
    strays: BadRows = field(default_factory=BadRows)
    """Rows with an I- tag that continues no entity."""
    contradictions: BadRows = field(default_factory=BadRows)
    """Rows that repeat an earlier one with other labels."""
    _known: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)
    _said: dict[bytes, int] = field(default_factory=dict)

    def add(self, labels: tuple[str, ...], place: Place, *, tagged: bool) -> None:
        """Take in the next usable row."""
        found = frozenset(labels)
        self.rows.append(self._known.setdefault(found, found))
        self.kinds.append(kind_of_row(labels, tagged=tagged))
        for label in found:
            self.places.setdefault(label, place)
        if tagged and (stray := stray_tag(labels)):
            self.strays.add(place, stray)

    def contradicts(self, key: bytes, labels: tuple[str, ...]) -> bool:
        """Whether an earlier row of the same text, which `key` stands for, has other labels."""
        said = hash(labels)
        return self._said.setdefault(key, said) != said

    def warnings(self, source: str) -> list[str]:
        """What looks wrong and is not fatal."""
        found = []
        if self.contradictions.count:
            named = _named(self.contradictions)
            found.append(
                f"{source}: {self.contradictions.count} rows have the text of an earlier one and other labels: {named}"
            )
        if self.strays.count:
            found.append(
                f"{source}: in {self.strays.count} rows an I- tag continues no entity of its type; it is learned as "
                f"it stands: {_named(self.strays)}"
            )
        return found


def _named(rows: BadRows) -> str:
    return ", ".join(f"{place} {what}" for place, what in rows.examples)


def left_in_train(held: Sequence[int], rows: Sequence[frozenset[str]]) -> list[int]:
    """Those of the rows `held` out that may be, when every label of `rows` must have a row to be learned from."""
    outside = set(held)
    train = Counter(label for i, labels in enumerate(rows) if i not in outside for label in labels)
    kept = []
    for row in held:
        if all(train[label] for label in rows[row]):
            kept.append(row)
        else:
            train.update(rows[row])
    return kept


def class_names(train: LabelTally, source: str, known: Sequence[str] = ()) -> list[str]:
    """The classes of the head: those `known` of the model's own, else the labels of the train rows, sorted; as numbers
    where all are.

    Raises InvalidDataError for fewer than two labels, for more than can be classes, and for a label that the model's
    own head does not have, naming the row.
    """
    if known:
        require_of_head(train, known, source)
        return [*known]
    labels = sorted(train.places, key=_order(train.places))
    if len(labels) < 2:
        raise InvalidDataError(
            f"{source}: every row has the label {labels[0]!r}; a classifier needs rows of at least two labels"
        )
    if len(labels) > MOST_LABELS:
        raise InvalidDataError(
            f"{source} has {len(labels)} different labels, more than {MOST_LABELS}, as in {', '.join(labels[:3])}; is "
            "another column the label? Name it with dataset.columns: {label: <column>}"
        )
    return labels


def require_of_head(rows: LabelTally, known: Sequence[str], source: str) -> None:
    """Raises InvalidDataError naming the row when rows have a label that is none of the model's own head."""
    if strange := _strange(rows, known, "which the head of model.source has not"):
        raise InvalidDataError(
            f"{source} {strange}; it tells {_listed(known)}. Rename the label, or name the language model that this "
            "one was made from"
        )


def _order(labels: Any) -> Any:  # noqa: ANN401 - a key function
    numbers = all(label.removeprefix("-").isdecimal() and label.isascii() for label in labels)
    return int if numbers else str


def require_known(held: LabelTally, classes: Sequence[str], source: str) -> None:
    """Raises InvalidDataError naming the row when held-out rows have a label that no train row has."""
    if strange := _strange(held, classes, "which no train row has"):
        raise InvalidDataError(
            f"dataset.eval: {source} {strange}; the train rows have {_listed(classes)}. Add train rows of it, or take "
            "the row out"
        )


def _strange(rows: LabelTally, classes: Sequence[str], why: str) -> str:
    """`line 5 has the label 'x', ...` of the first label that is none of `classes`; empty when all are."""
    unknown = sorted(set(rows.places) - set(classes))
    if not unknown:
        return ""
    more = f", and {len(unknown) - 1} more such labels" if len(unknown) > 1 else ""
    return f"{rows.places[unknown[0]]} has the label {unknown[0]!r}, {why}{more}"


def _listed(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    return ", ".join(classes[:_NAMED]) + more


def label_counts(rows: Any, classes: Sequence[str]) -> list[LabelCount]:  # noqa: ANN401 - a datasets.Dataset
    """How often each class stands in `rows`, which have the column classes: all, or the most frequent ones that fit."""
    counts: Counter[int] = Counter()
    for batch in rows.select_columns(["classes"]).iter(batch_size=1000):
        for row in batch["classes"]:
            counts.update(row)
    chosen = sorted(counts, key=lambda i: (-counts[i], i))[:LABELS_LIMIT]
    return [LabelCount(label=classes[i], count=counts[i]) for i in sorted(chosen)]
