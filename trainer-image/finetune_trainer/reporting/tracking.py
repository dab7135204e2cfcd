"""What of a stage's reports goes to the tracking servers of spec.reporting, and that no stage waits for one or fails.

A server is told from a thread of its own, in order. One that does not answer is given up on for this stage, once, with
a warning: status, report.json and TensorBoard have the same numbers. Must not know any server's client.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Unpack

import structlog

from finetune_api.contract import StageResult
from finetune_api.status import HistoryPoint, Metrics, Stage
from finetune_trainer.failures import failure_of
from finetune_trainer.run import ProgressSink, ProgressUpdate, Run

_log = structlog.get_logger(__name__)
TRACKED = (Stage.TRAIN, Stage.EVALUATE, Stage.EXPORT)
"""Stages that tell something; the network of prepare is for downloads."""
LEAVE_SECONDS = 20.0
"""Longest wait at the end of a stage for what is still to be told."""


class Tracker(Protocol):
    """One run on one tracking server, the same for all stages and attempts of a job."""

    name: str

    def begin(self, settings: dict[str, str]) -> None:
        """Open the run, or go on with it; `settings` are those of the plan."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Numbers measured at an optimizer step."""

    def describe(self, facts: dict[str, str]) -> None:
        """Facts about the outcome, such as where an artefact lies."""

    def end(self, outcome: str | None) -> None:
        """Close the connection; `outcome` is Succeeded or Failed once the job has ended, None while it goes on."""


@dataclass
class _Teller:
    """One tracker and the thread that talks to it."""

    tracker: Tracker
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tracking"))
    given_up: bool = False
    told: list["Future[None]"] = field(default_factory=list)

    def tell(self, call: Callable[[], None]) -> None:
        self.told = [future for future in self.told if not future.done()]
        self.told.append(self.pool.submit(self._call, call))

    def _call(self, call: Callable[[], None]) -> None:
        if self.given_up:
            return
        try:
            call()
        except Exception as error:  # a client raises what it likes, and none of it is the stage's business
            self.given_up = True
            _log.warning("tracking is given up for this stage", server=self.tracker.name, error=str(error)[:500])

    def leave(self) -> None:
        _, late = wait_for(self.told, LEAVE_SECONDS)
        if late:
            self.given_up = True
            _log.warning("tracking is given up for this stage", server=self.tracker.name, error="it answers too slowly")
        self.pool.shutdown(wait=False, cancel_futures=True)


class TrackedProgress:
    """A ProgressSink that passes everything on, and tells the trackers each new point of the curves."""

    def __init__(self, progress: ProgressSink, trackers: list[Tracker]) -> None:
        self._progress = progress
        self._tellers = [_Teller(tracker) for tracker in trackers]

    def update(self, step: int, total_steps: int, **told: Unpack[ProgressUpdate]) -> None:
        """As ProgressSink. A point without metrics repeats what an earlier attempt has told."""
        self._progress.update(step, total_steps, **told)
        metrics, point = told.get("metrics"), told.get("point")
        if metrics is not None and point is not None:
            values = curve_values(metrics, point, told.get("epoch"))
            self._tell(lambda tracker: tracker.log(point.step, values))

    def begin(self, settings: dict[str, str]) -> None:
        """Open the run on every server."""
        self._tell(lambda tracker: tracker.begin(settings))

    def end(self, step: int, result: StageResult) -> None:
        """Tell the outcome of the stage, `step` being the last optimizer step, and wait a little for it to arrive."""
        values, facts = outcome_values(result), outcome_facts(result)
        if values:
            self._tell(lambda tracker: tracker.log(step, values))
        if facts:
            self._tell(lambda tracker: tracker.describe(facts))
        self._tell(lambda tracker: tracker.end(run_outcome(result)))
        for teller in self._tellers:
            teller.leave()

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for teller in self._tellers:
            teller.tell(lambda tracker=teller.tracker: call(tracker))  # type: ignore[misc]


@contextmanager
def tracked(run: Run, trackers: Callable[[Run], list[Tracker]]) -> Iterator[tuple[Run, Callable[[StageResult], None]]]:
    """The run with a progress that also tells the trackers, and what is to be called with its result.

    A stage that raises is told as the failure that it means.
    """
    chosen = trackers(run) if run.request.stage in TRACKED else []
    if not chosen:
        yield run, lambda _result: None
        return
    progress = TrackedProgress(run.progress, chosen)
    progress.begin(settings_of(run))
    last = run.plan.training.total_steps
    try:
        yield replace(run, progress=progress), lambda result: progress.end(last, result)
    except Exception as error:
        progress.end(last, failure_of(error, run.workspace.root).result(run.request.stage))
        raise


def curve_values(metrics: Metrics, point: HistoryPoint, epoch: float | None) -> dict[str, float]:
    """Numbers of one point of the curves by the names that transformers logs them under; of several adapters each has
    curves of its own, as in `billing/loss`."""
    values: dict[str, Any] = {"loss": point.loss, "eval_loss": point.eval_loss, "epoch": epoch}
    if point.loss is not None:
        values |= {
            "learning_rate": metrics.learning_rate,
            "grad_norm": metrics.grad_norm,
            "tokens_per_second": metrics.tokens_per_second,
        }
    of = f"{point.adapter}/" if point.adapter else ""
    return {f"{of}{name}": float(value) for name, value in values.items() if value is not None}


def outcome_values(result: StageResult) -> dict[str, float]:
    """Numbers of the evaluation: `evaluation/tuned/accuracy`, `evaluation/baseline/accuracy`; of several adapters
    `evaluation/billing/tuned/accuracy`."""
    if result.evaluation is None:
        return {}
    sides = {"baseline": result.evaluation.baseline, "tuned": result.evaluation.tuned}
    for adapter in result.evaluation.adapters:
        sides |= {f"{adapter.name}/baseline": adapter.baseline, f"{adapter.name}/tuned": adapter.tuned}
    return {f"evaluation/{side}/{name}": float(v) for side, values in sides.items() for name, v in values.items()}


def outcome_facts(result: StageResult) -> dict[str, str]:
    """Where artefacts lie, with their digests, and why a stage failed."""
    facts: dict[str, str] = {}
    for artifact in result.artifacts:
        facts |= {f"artifact.{artifact.name}.uri": artifact.uri, f"artifact.{artifact.name}.digest": artifact.digest}
    if result.outcome == "Failed":
        facts |= {"failure.reason": str(result.reason), "failure.message": result.message}
    return facts


def run_outcome(result: StageResult) -> str | None:
    """Succeeded when the last stage has, Failed when any has; None while the job goes on."""
    if result.outcome == "Failed":
        return "Failed"
    return "Succeeded" if result.outcome == "Succeeded" and result.stage is Stage.EXPORT else None


def settings_of(run: Run) -> dict[str, str]:
    """The settings of the plan, flat: `training.learning_rate`; at most 250 characters each, as servers ask."""
    plan = run.plan
    parts = {"model": plan.model, "method": plan.method, "training": plan.training}
    settings = {
        f"{part}.{name}": str(value)[:250]
        for part, model in parts.items()
        for name, value in model.model_dump(mode="json", exclude_none=True).items()
    }
    # One for each adapter: a server takes 100 at once.
    return settings | {f"adapters.{adapter.name}": str(adapter.to_json())[:250] for adapter in plan.adapters}
