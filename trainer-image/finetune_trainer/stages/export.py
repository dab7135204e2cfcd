"""Stage export: writes every artefact of the plan, proves each against the tuned model, publishes it.

Killed at any moment and called again, it ends with the same artefacts: finished ones are kept when they are whole,
and what was half done is removed. Must not publish anything that the parity gate has not passed.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from finetune_api.contract import StageResult
from finetune_api.spec import Export
from finetune_api.status import Stage
from finetune_trainer.errors import StageError
from finetune_trainer.evaluating.generating import stop_ids
from finetune_trainer.evaluating.rows import EvalRow, load_rows
from finetune_trainer.exporting.card import model_card
from finetune_trainer.exporting.destinations import destination_of
from finetune_trainer.exporting.digests import list_files
from finetune_trainer.exporting.formats import FORMATS, Sources, model_id
from finetune_trainer.exporting.gate import Proof, opened, prove_application, prove_logits
from finetune_trainer.exporting.head_proof import HeadOnnxModel, head_reference, prove_padding
from finetune_trainer.exporting.publishing import CARD, Destination, emptied, writing
from finetune_trainer.exporting.reference import PROBES, Reference, compute
from finetune_trainer.exporting.report import Report
from finetune_trainer.models.heads import head_of
from finetune_trainer.models.load import load_tokenizer, load_tuned
from finetune_trainer.models.merge import merged, save_whole
from finetune_trainer.named_adapters.runs import adapter_runs, named
from finetune_trainer.ownership import confirm_attempt
from finetune_trainer.run import Run

WORKSPACE_FIELD = "output.workspace.size"


def execute(run: Run) -> StageResult:
    """Export everything in plan.exports.

    Raises ParityError for an artefact that computes something else, OutputUnwritableError for a volume that is full,
    read-only or somebody else's or a bucket that may not be written, SourceUnavailableError for a bucket that does not
    answer, NotSupportedError for an architecture that a format does not know; each carries the artefacts that were
    published before.
    """
    destination = destination_of(run)
    destination.check([export.name for export in run.plan.exports])
    report = Report(run, destination)
    with destination.opened():
        report.reopen()
        report.write(complete=False)
        try:
            _export_missing(run, destination, report)
        except StageError as error:
            error.artifacts = report.artifacts
            raise
        card = model_card(report.write(complete=True), model_id(run))
        destination.write(CARD, card.encode())
    return StageResult(
        stage=Stage.EXPORT, outcome="Succeeded", message=_message(report, destination), artifacts=report.artifacts
    )


def _export_missing(run: Run, destination: Destination, report: Report) -> None:
    total = len(run.plan.exports)
    run.progress.update(sum(report.has(export.name) for export in run.plan.exports), total)
    for part in adapter_runs(run) or [run]:
        missing = [export for export in part.plan.exports if not report.has(export.name)]
        if not missing:
            continue
        with _scratch(part) as scratch, named(part):
            sources, reference = _sources(part, scratch, missing)
            for export in missing:
                _export(sources, reference, destination, report, export)
                run.progress.update(len(report.artifacts), total)
        gc.collect()  # the next adapter's model needs the room


@contextmanager
def _scratch(run: Run) -> Iterator[Path]:
    """A folder of the workspace for what only this call needs; leftovers of an earlier one are removed first."""
    root = run.workspace.root
    with writing(WORKSPACE_FIELD, root), emptied(root / "export-scratch") as folder:
        yield folder


def _sources(run: Run, scratch: Path, exports: list[Export]) -> tuple[Sources, Reference]:
    """The yardstick and the merged model, made from one loading of the tuned model."""
    torch.set_num_threads(run.threads)
    model = load_tuned(run, precision="fp32", attention="eager")
    tokenizer = load_tokenizer(run.workspace.tuned)
    rows, head = held_out(run), head_of(run)
    stops = [] if head else stop_ids(model, tokenizer, rows)
    reference = head_reference(model, head, rows) if head else compute(model, rows, stops, scratch / "reference.npy")
    sources = Sources(run, scratch / "merged", scratch, stops, head)
    if any(FORMATS[export.format].needs_merged for export in exports):
        save_whole(merged(model), tokenizer, sources.merged, torch.float32, stops)
    return sources, reference


def held_out(run: Run) -> list[EvalRow]:
    """Rows to compare on: held-out ones, or train rows where none are held out; of preferences the wanted answers."""
    folder = run.workspace.eval_rows if run.workspace.eval_rows.is_dir() else run.workspace.train_rows
    rows = load_rows(folder, PROBES, run.spec.dataset.shuffle_seed)
    return [row for row in rows if row.desirable is not False] or rows


def _export(sources: Sources, reference: Reference, destination: Destination, report: Report, export: Export) -> None:
    run, kind = sources.run, FORMATS[export.format]
    precision = kind.precision(sources, export)
    with destination.staged(export.name) as folder:
        kind.write(sources, export, folder)
        proof = _prove(sources, reference, export, precision, folder)
        files = list_files(folder)
        confirm_attempt(run.workspace.root, run.request)
        destination.publish(folder, export.name)
    report.add(export, precision, files, proof)


def _prove(sources: Sources, reference: Reference, export: Export, precision: str, folder: Path) -> Proof:
    run = sources.run
    model = opened(export, lambda: FORMATS[export.format].open(sources, folder))
    proof = prove_logits(export, precision, model, reference)
    if isinstance(model, HeadOnnxModel):
        return Proof(proof.parity, {**proof.checks, "paddingGap": prove_padding(export, model, reference)})
    del model
    if export.format != "onnx":
        return proof
    used = prove_application(export, folder, run.threads, reference, load_tokenizer(run.workspace.tuned))
    return Proof(proof.parity, {**proof.checks, **used.checks}, used.tokens_per_second)


def _message(report: Report, destination: Destination) -> str:
    made = ", ".join(f"{a.name} ({a.format}, {a.size_bytes / 1e6:.1f} MB)" for a in report.artifacts)
    return f"published in {destination.uri}: {made}"[:1024]
