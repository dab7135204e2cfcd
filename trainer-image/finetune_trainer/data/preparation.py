"""From the spec's sources to the train and eval rows in the workspace, and the report of what they are.

Decides the limit of a row and which rows are held out. Must not decide anything about training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from finetune_api.status import DatasetReport, LongRow, RowTokens
from finetune_trainer.data.examples import LossOn
from finetune_trainer.data.holdout import held_out, held_out_whole
from finetune_trainer.data.intake import Encoders, Intake, Source, labels_of, read_source, take_in, warnings_of
from finetune_trainer.data.labels import class_names, label_counts, left_in_train, require_known, require_of_head
from finetune_trainer.data.mismatches import require_both_kinds, with_mismatches
from finetune_trainer.data.parts import BLOCK
from finetune_trainer.data.records import Place
from finetune_trainer.data.row_cache import is_shared, row_cache
from finetune_trainer.data.storage import (
    EVAL_COLUMNS,
    LABELS,
    PAIR_COLUMNS,
    TRAIN_COLUMNS,
    VERDICT_COLUMNS,
    digest_of,
    open_rows,
    save_rows,
    with_classes,
)
from finetune_trainer.errors import InvalidDataError, InvalidSpecError
from finetune_trainer.run import Run

WARNING_LIMIT = 16


@dataclass(frozen=True)
class PreparedData:
    """What the data turned out to be, as far as the plan needs it."""

    report: DatasetReport
    loss_on: LossOn
    train_lengths: Sequence[int]
    """Tokens of each train row, after any cut."""
    distinct_answers: int
    """Different answers of the train rows; counted up to one more than can be labels."""
    supervised_share: float
    """Largest part of a row's tokens that carries loss, from 0 to 1."""
    classes: Sequence[str] = ()
    """Names of the classes, in their order; empty for tasks without labels."""


def prepare_data(
    run: Run,
    tokenizer: Any,  # noqa: ANN401 - any tokenizer
    context_length: int,
    scratch: Path,
    model_digest: str,
    known: Sequence[str] = (),
) -> PreparedData:
    """Read, judge, encode and split the rows; write run.workspace.train_rows and eval_rows. Raises a StageError.

    `context_length` is the model's, in tokens; `scratch` is a folder that the caller removes; `known` are the classes
    of a head that the model comes with. Rows that another job on the same claim has encoded for the model of
    `model_digest` are taken as they are.
    """
    limit = _limit(run, context_length)
    sources = _sources(run)
    cache = None
    if is_shared(run):
        cache = row_cache(run, model_digest, limit, {name: source.fingerprint() for name, source in sources.items()})
        if (kept := cache.restore()) is not None:
            return _from_facts(kept)
    encoders = Encoders(tokenizer, run.spec.task, run.spec.training.objective)
    prepared = _encoded(run, sources, encoders, limit, scratch, known)
    if cache is not None:
        cache.keep(_facts(prepared), run.request.job.uid)
    return prepared


def _sources(run: Run) -> dict[str, Source]:
    """Sources of train and, where the spec has them, eval rows."""
    dataset = run.spec.dataset
    named = {"train": dataset.train, "eval": dataset.eval}
    return {name: read_source(run, source, f"dataset.{name}") for name, source in named.items() if source}


def _facts(prepared: PreparedData) -> dict[str, Any]:
    return {
        **vars(prepared),
        "report": prepared.report.model_dump(mode="json", by_alias=True),
        "train_lengths": [*prepared.train_lengths],
        "classes": [*prepared.classes],
    }


def _from_facts(facts: dict[str, Any]) -> PreparedData:
    return PreparedData(**{**facts, "report": DatasetReport.model_validate(facts["report"])})


def _encoded(
    run: Run, sources: dict[str, Source], encoders: Encoders, limit: int, scratch: Path, known: Sequence[str]
) -> PreparedData:
    train = _intake(run, "train", sources["train"], encoders, limit, scratch)
    classes = class_names(train.tally, train.source, known) if train.tally.rows else []
    rows = open_rows(train.rows)
    dataset = run.spec.dataset
    if dataset.eval is not None:
        held = _intake(run, "eval", sources["eval"], encoders, limit, scratch)
        _require_same_format(train, held)
        (require_of_head if known else require_known)(held.tally, classes, held.source)
        kept: Sequence[int] = range(train.usable)
        eval_rows, eval_indices = open_rows(held.rows), [*range(held.usable)]
        shared = len(train.seen.keys() & held.seen.keys())
        warnings = [*warnings_of(train), *warnings_of(held), *_leak(shared)]
    else:
        eval_rows, eval_indices = rows, _held_out(run, train)
        outside = set(eval_indices)
        kept = [row for row in range(train.usable) if row not in outside]
        warnings = [*warnings_of(train), *_no_eval(dataset.eval_fraction, len(eval_indices))]
    _save(run, rows, kept, TRAIN_COLUMNS, run.workspace.train_rows, classes)
    if eval_indices:
        _save(run, eval_rows, eval_indices, EVAL_COLUMNS, run.workspace.eval_rows, classes)
    prepared = _prepared(train, kept, len(eval_indices), digest_of(rows, kept), warnings)
    return _with_classes(prepared, run.workspace.train_rows, classes) if classes else prepared


def _with_classes(prepared: PreparedData, train_rows: Path, classes: list[str]) -> PreparedData:
    import datasets

    counts = label_counts(datasets.load_from_disk(str(train_rows)), classes)
    report = prepared.report.model_copy(update={"labels": counts, "label_count": len(classes)})
    return replace(prepared, report=report, classes=classes)


def _held_out(run: Run, train: Intake) -> list[int]:
    """Train rows to judge on. Of rows with labels each label keeps its share, however many there are. KTO judges
    answers of both kinds, so it needs one of each at least."""
    dataset = run.spec.dataset
    fraction = dataset.eval_fraction
    if train.tally.rows:
        kinds = train.tally.kinds
        return left_in_train(held_out(kinds, fraction, dataset.shuffle_seed, most=len(kinds) // 2), train.tally.rows)
    if run.spec.training.objective == "kto" and fraction > 0:
        fraction = max(fraction, min(0.5, 2 / len({*train.origins})))
    return held_out_whole(labels_of(train), train.origins, fraction, dataset.shuffle_seed)


def _save(
    run: Run,
    rows: Any,  # noqa: ANN401 - a datasets.Dataset
    indices: Sequence[int],
    columns: tuple[str, ...],
    target: Path,
    classes: Sequence[str],
) -> None:
    """Save rows with their classes, or with the second sequence that the objective compares them with."""
    objective, seed = run.spec.training.objective, run.spec.dataset.shuffle_seed
    if objective == "kto":
        desirable = rows.select_columns(["desirable"]).select([*indices])["desirable"]
        where, way_out = ("dataset.train", "add rows of the other kind")
        if target == run.workspace.eval_rows:
            where, way_out = "the held-out rows", "raise dataset.evalFraction, or give dataset.eval with both kinds"
        require_both_kinds([*desirable], where, way_out)
        save_rows(rows, indices, (*columns, *VERDICT_COLUMNS), target, lambda kept: with_mismatches(kept, seed))
    elif run.spec.task == "preference":
        save_rows(rows, indices, (*columns, *PAIR_COLUMNS), target)
    elif classes:
        save_rows(rows, indices, (*columns, LABELS), target, lambda kept: with_classes(kept, classes, target.name))
    else:
        save_rows(rows, indices, columns, target)


def row_tokens(lengths: Sequence[int]) -> RowTokens:
    """Quantiles of `lengths`, at least one, each the length of some row."""
    quantiles: list[int] = numpy.quantile(lengths, [0, 0.5, 0.9, 0.99, 1], method="higher").tolist()
    smallest, median, p90, p99, largest = map(int, quantiles)
    return RowTokens(min=smallest, median=median, p90=p90, p99=p99, max=largest)


def _long_row(intake: Intake, place: Place, tokens: int) -> LongRow:
    name = str(place) if place.source == intake.source else f"{place.source} {place}"
    return LongRow(row=name[:253], tokens=tokens)


def _limit(run: Run, context_length: int) -> int:
    asked = run.spec.dataset.max_length
    if asked == "auto":
        return min(context_length, BLOCK) if run.spec.training.objective == "pretrain" else context_length
    if asked > context_length:
        raise InvalidSpecError(
            f"dataset.maxLength: {asked} is more than the model's context of {context_length} tokens; "
            f"set at most {context_length}, or auto"
        )
    return asked


def _intake(run: Run, name: str, rows: Source, encoders: Encoders, limit: int, scratch: Path) -> Intake:
    source = run.spec.dataset.train if name == "train" else run.spec.dataset.eval
    assert source is not None  # noqa: S101 - the caller asks only for those that there are
    return take_in(rows, _short(source.source), run.spec.dataset, encoders, limit, scratch / f"{name}.arrow")


def _short(uri: str) -> str:
    return uri if uri.startswith("hf://") else uri.rstrip("/").rpartition("/")[2]


def _require_same_format(train: Intake, held: Intake) -> None:
    if train.shape and held.shape and train.shape.format != held.shape.format:
        raise InvalidDataError(
            f"dataset.eval has rows of format {held.shape.format}, dataset.train of {train.shape.format}; "
            "bring both into one format, or name it in dataset.format"
        )


def _leak(shared: int) -> list[str]:
    return [f"{shared} rows of dataset.eval are in dataset.train too: the evaluation is too good"] if shared else []


def _no_eval(fraction: float, rows: int) -> list[str]:
    return ["a single row cannot be held out: there is no evaluation"] if fraction > 0 and not rows else []


def _prepared(train: Intake, kept: Sequence[int], eval_rows: int, digest: str, warnings: list[str]) -> PreparedData:
    assert train.shape is not None  # noqa: S101 - take_in refuses a source without a usable row
    report = DatasetReport(
        format=train.shape.format,
        file_format=train.file_format,
        train_rows=len(kept),
        eval_rows=eval_rows,
        bad_rows=train.bad.count,
        over_length_rows=train.over_length.count,
        train_tokens=sum(train.tokens[row] for row in kept),
        supervised_tokens=sum(train.supervised[row] for row in kept),
        longest_row=train.longest_rows()[0][1],
        row_tokens=row_tokens([train.lengths[row] for row in kept]),
        longest_rows=[_long_row(train, place, tokens) for place, tokens in train.longest_rows()],
        digest=digest,
        warnings=[warning[:1024] for warning in warnings[:WARNING_LIMIT]],
    )
    share = max(train.supervised[row] / train.tokens[row] for row in kept)
    lengths = [train.lengths[row] for row in kept]
    return PreparedData(report, train.shape.loss_on, lengths, len(train.distinct), share)
