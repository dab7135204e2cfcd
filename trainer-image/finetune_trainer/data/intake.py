"""Reads one source of rows, judges each row, encodes it and appends it to a file: the streaming half of preparation.

Rows that cannot be used and rows over the limit are counted and, beyond what the spec allows, end the stage with their
places and reasons. Keeps a few bytes per row in memory, never the rows.
"""

import hashlib
import heapq
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.heads import HEAD_FORMATS
from finetune_api.spec import DatasetSpec, DataSource
from finetune_trainer.data.encoding import EncodedRow, RowEncoder
from finetune_trainer.data.examples import RowShape, shape_of
from finetune_trainer.data.files import content_digest, data_files, names_of_split, read_files, stored_as
from finetune_trainer.data.head_encoding import HeadEncoder
from finetune_trainer.data.holdout import STRATIFIED_UP_TO
from finetune_trainer.data.hub import hub_commit, read_hub_rows
from finetune_trainer.data.labels import LabelTally
from finetune_trainer.data.parts import parts_of
from finetune_trainer.data.preferences import preference_shape
from finetune_trainer.data.records import BadRows, Place, Record, UnusableRowError, column_names, require_unicode
from finetune_trainer.data.slices import DEFAULT_SPLIT, parse_slice
from finetune_trainer.data.storage import RowFile
from finetune_trainer.errors import InvalidDataError
from finetune_trainer.object_store import bring_objects, is_object_uri
from finetune_trainer.paths import claim_root, claimed_path
from finetune_trainer.run import Run

LONGEST_ROWS = 5
DESIRABLE = {True: "desirable", False: "undesirable"}
"""Labels of single answers, by which the hold-out is stratified."""
COPIES = "objects"
"""Folder of the workspace with copies of the data files of buckets."""
_REWRITTEN = (
    ": the model's chat template renders an answer that another turn follows otherwise than the model writes it; to "
    "learn it, give the conversation up to it as a row of its own"
)


@dataclass
class Intake:
    """What a source turned out to be; `rows` holds the usable ones in their order."""

    source: str
    rows: Path
    shape: RowShape | None = None
    divides: bool = False
    """Whether rows over the limit become several, and are not refused."""
    total: int = 0
    bad: BadRows = field(default_factory=BadRows)
    over_length: BadRows = field(default_factory=BadRows)
    lengths: list[int] = field(default_factory=list)
    """Tokens of each row, of the longer sequence where it has two."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of each row, of all its sequences."""
    supervised: list[int] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    origins: list[bytes | int] = field(default_factory=list)
    """What each row comes from: rows of one origin are never on both sides of the hold-out."""
    file_format: str = ""
    """How the rows are stored, as in `JSON Lines, gzip`."""
    longest: list[tuple[int, int, Place]] = field(default_factory=list)
    """The LONGEST_ROWS longest usable rows as a heap: tokens before any cut, minus the row's number, place."""
    unused: dict[str, None] = field(default_factory=dict)
    seen: dict[bytes, Place] = field(default_factory=dict)
    duplicates: BadRows = field(default_factory=BadRows)
    unseparated: int = 0
    """Rows of plain continuation whose prompt and completion meet without a space."""
    rewritten: int = 0
    """Rows with answers that carry no loss, as a server renders them otherwise than the model writes them."""
    distinct: set[str] = field(default_factory=set)
    tally: LabelTally = field(default_factory=LabelTally)

    @property
    def usable(self) -> int:
        """Rows kept."""
        return len(self.lengths)

    def longest_rows(self) -> list[tuple[Place, int]]:
        """Places and tokens of the longest rows, the longest first, the earlier one first among equals."""
        return [(place, tokens) for tokens, _, place in sorted(self.longest, key=lambda row: row[:2], reverse=True)]


@dataclass(frozen=True)
class Source:
    """The rows that the spec names, and how they are stored."""

    records: Iterable[Record]
    file_format: str
    fingerprint: Callable[[], str]
    """Names the content: the same rows in the same order give the same one."""


def read_source(run: Run, source: DataSource, field_name: str) -> Source:
    """The rows that `source` (dataset.train or dataset.eval) names. Raises a StageError that names the source."""
    part = parse_slice(source.split, f"{field_name}.split")
    if source.source.startswith("hf://"):
        pins = run.workspace.root / "pins"
        return Source(read_hub_rows(source.source, part, pins), "hub dataset", lambda: hub_commit(source.source, pins))
    uri, split = source.source, part.split if source.split else DEFAULT_SPLIT
    if is_object_uri(uri):
        root = run.workspace.root / COPIES / hashlib.sha256(f"{uri}\0{split}".encode()).hexdigest()[:16]
        path = bring_objects(uri, root, lambda names: names_of_split(names, split, uri))
    else:
        path, root = claimed_path(run, uri), claim_root(run, uri)
    files = data_files(path, root, uri, split)
    return Source(read_files(files, part), stored_as(files), lambda: content_digest(files))


def take_in(source: Source, name: str, dataset: DatasetSpec, encoders: "Encoders", limit: int, target: Path) -> Intake:
    """Judge and encode the rows of `source`, called `name`, into file `target`; `limit` is the longest row in tokens.

    Raises InvalidDataError with the first bad rows when more are bad than dataset.maxBadRows, when rows are over
    `limit` and dataset.overLength is fail, or when no row is left.
    """
    intake = Intake(name, target, file_format=source.file_format, divides=encoders.objective == "pretrain")
    with RowFile(target) as file:
        for record in source.records:
            intake.total += 1
            _take(intake, record, dataset, encoders, limit, file)
    _judge(intake, dataset, limit)
    return intake


class Encoders:
    """Decides the shape of the rows, and makes the encoder once it is known."""

    def __init__(self, tokenizer: Any, task: str, objective: str = "sft") -> None:  # noqa: ANN401 - any tokenizer
        self._tokenizer = tokenizer
        self.task = task
        self.objective = objective
        """training.objective."""
        self._made: dict[str, RowEncoder | HeadEncoder] = {}

    def shape(self, dataset: DatasetSpec, columns: dict[str, Any], source: str) -> RowShape:
        """The shape of the rows of `source`, by the first row's `columns`. Raises as shape_of does."""
        if self.task == "preference":
            return preference_shape(dataset, columns, source, self.objective)
        if self.objective == "pretrain":
            return _text_shape(dataset, columns, source)
        return shape_of(dataset, columns, source, self.task)

    def for_shape(self, shape: RowShape) -> RowEncoder | HeadEncoder:
        """The encoder of rows of this shape."""
        if shape.loss_on not in self._made:
            self._made[shape.loss_on] = self._make(shape)
        return self._made[shape.loss_on]

    def _make(self, shape: RowShape) -> RowEncoder | HeadEncoder:
        if shape.format in HEAD_FORMATS.values():
            return HeadEncoder(self._tokenizer)
        return RowEncoder(self._tokenizer, loss_on=shape.loss_on, task=self.task)


def _text_shape(dataset: DatasetSpec, columns: dict[str, Any], source: str) -> RowShape:
    try:
        return shape_of(dataset.model_copy(update={"format": "text"}), columns, source)
    except InvalidDataError as error:
        raise InvalidDataError(
            f"training.objective: pretrain learns plain text, and questions with answers are learned with sft. {error}"
        ) from error


def _take(intake: Intake, record: Record, dataset: DatasetSpec, encoders: Encoders, limit: int, file: RowFile) -> None:
    if record.problem:
        intake.bad.add(record.place, record.problem)
        return
    try:
        require_unicode(record.columns)
        if intake.shape is None:
            intake.shape = encoders.shape(dataset, record.columns, f"{record.place.source} {record.place}")
        row = _encoded(intake, intake.shape, record, encoders)
        kept = _within(intake, row, record.place, dataset.over_length, limit)
    except UnusableRowError as error:
        intake.bad.add(record.place, str(error))
        return
    if kept is not None:
        for part in parts_of(kept, encoders.objective, limit):
            _keep(intake, part, file)
        if kept.labels:
            intake.tally.add(kept.labels, record.place, tagged=intake.shape.format == "tagged-tokens")
        _watch(intake, intake.shape, record, row)


def _keep(intake: Intake, row: EncodedRow, file: RowFile) -> None:
    file.append(row)
    intake.lengths.append(row.length)
    intake.tokens.append(row.tokens)
    intake.supervised.append(row.supervised)
    intake.origins.append(_origin(intake, row))
    _label(intake, row.reference if row.desirable is None else DESIRABLE[row.desirable])


def _origin(intake: Intake, row: EncodedRow) -> bytes | int:
    """Of preferences the prompt, of which there may be many; else the row itself."""
    if row.other is None and row.desirable is None:
        return intake.total
    return hashlib.blake2b(array("i", row.prompt).tobytes(), digest_size=12).digest()


def _encoded(intake: Intake, shape: RowShape, record: Record, encoders: Encoders) -> EncodedRow:
    example = shape.example(record.columns)
    encoder = encoders.for_shape(shape)
    row = encoder.encode(example)
    if row.silent:
        raise UnusableRowError(f"no token of it would carry loss{_REWRITTEN if row.rewritten else ''}")
    plain = bool(example.completion) and not encoder.templated
    if plain and not (example.prompt[-1:].isspace() or example.completion[:1].isspace()):
        intake.unseparated += 1
    return row


def _within(intake: Intake, row: EncodedRow, place: Place, over_length: str, limit: int) -> EncodedRow | None:
    """The row, cut where the spec says so; None when it is left out."""
    length = row.length
    _rank(intake, length, place)
    if length <= limit:
        return row
    intake.over_length.add(place, f"{length} tokens")
    if intake.divides and over_length == "fail":
        return row
    if over_length != "truncate":
        return None
    cut = row.cut(limit)
    if cut.silent:
        raise UnusableRowError(f"no token of the answer is left after the cut at {limit} tokens")
    if cut.other is not None and cut.input_ids == cut.other.input_ids:
        raise UnusableRowError(f"chosen and rejected are the same after the cut at {limit} tokens")
    return cut


def _rank(intake: Intake, length: int, place: Place) -> None:
    """Remember the row if it is among the longest. Rows are counted, so that places are never compared."""
    entry = (length, -intake.total, place)
    if len(intake.longest) < LONGEST_ROWS:
        heapq.heappush(intake.longest, entry)
    else:
        heapq.heappushpop(intake.longest, entry)


def _label(intake: Intake, answer: str) -> None:
    """Remember the answer while there are few different ones: they are labels then."""
    if len(intake.distinct) <= STRATIFIED_UP_TO:
        intake.distinct.add(answer)
    few = len(intake.distinct) <= STRATIFIED_UP_TO
    intake.labels.append(answer if few else None)


def labels_of(intake: Intake) -> list[str | None]:
    """The label of each row, or None for all where answers are too many to be labels."""
    few = len(intake.distinct) <= STRATIFIED_UP_TO
    return intake.labels if few else [None] * len(intake.labels)


def _watch(intake: Intake, shape: RowShape, record: Record, row: EncodedRow) -> None:
    """Notice what looks wrong and is not fatal."""
    intake.rewritten += row.rewritten
    intake.unused.update(dict.fromkeys(shape.unused(record.columns)))
    said = array("i", row.input_ids) + (array("i", [-1, *row.other.input_ids]) if row.other else array("i"))
    key = hashlib.blake2b(said.tobytes(), digest_size=12).digest()
    first = intake.seen.setdefault(key, record.place)
    if row.labels and intake.tally.contradicts(key, row.labels):
        intake.tally.contradictions.add(record.place, f"as {first}")
        return
    if first is not record.place:
        intake.duplicates.add(record.place, f"as {first}")


def _judge(intake: Intake, dataset: DatasetSpec, limit: int) -> None:
    if intake.total == 0:
        raise InvalidDataError(f"{intake.source} holds no row")
    intake.bad.refuse_above(dataset.max_bad_rows, intake.total)
    if intake.over_length.count and dataset.over_length == "fail" and not intake.divides:
        raise InvalidDataError(_over_length(intake, limit))
    if intake.usable == 0:
        reason = intake.bad.describe(intake.total) if intake.bad.count else _over_length(intake, limit)
        raise InvalidDataError(f"no row is left: {reason}")


def _over_length(intake: Intake, limit: int) -> str:
    named = ", ".join(f"{place} ({what})" for place, what in intake.over_length.examples)
    return (
        f"{intake.source}: {intake.over_length.count} of {intake.total} rows are longer than {limit} tokens: {named}. "
        "Set dataset.maxLength (up to the model's context), or dataset.overLength to drop or truncate"
    )


def warnings_of(intake: Intake) -> list[str]:
    """What looks wrong in the source and is not fatal, one sentence each."""
    found = intake.tally.warnings(intake.source)
    if intake.bad.count:
        found.append(f"left out: {intake.bad.describe(intake.total)}")
    if intake.unused:
        found.append(f"{intake.source}: columns that nothing reads: {column_names(intake.unused)}")
    if intake.duplicates.count:
        named = ", ".join(f"{place} {what}" for place, what in intake.duplicates.examples)
        found.append(f"{intake.source}: {intake.duplicates.count} rows say the same as an earlier one: {named}")
    if intake.unseparated:
        found.append(
            f"{intake.source}: in {intake.unseparated} rows prompt and completion meet without a space between them; "
            "begin the completion with one if the model should write it"
        )
    if intake.rewritten:
        found.append(f"{intake.source}: in {intake.rewritten} rows earlier answers carry no loss{_REWRITTEN}")
    return found
