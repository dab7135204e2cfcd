"""One run for each of method.adapters, so that a stage treats each as an ordinary job: its spec, files and progress.

Must not know what a stage does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Unpack

from finetune_api.adapters import adapter_specs
from finetune_trainer.errors import StageError
from finetune_trainer.run import ProgressSink, ProgressUpdate, Run, Workspace


def adapter_runs(run: Run, steps: Sequence[int] = ()) -> list[Run]:
    """A run for each of method.adapters, in their order; none for any other job.

    `steps` says how many steps the stage has with each. Without it the runs report their progress as their own.
    """
    specs = adapter_specs(run.spec)
    shares = [AdapterProgress(run.progress, name, steps, i) for i, name in enumerate(specs)] if steps else []
    return [
        replace(
            run,
            request=run.request.model_copy(update={"spec": spec}),
            workspace=Workspace(run.workspace.root, name),
            progress=shares[i] if shares else run.progress,
        )
        for i, (name, spec) in enumerate(specs.items())
    ]


@contextmanager
def named(run: Run) -> Iterator[None]:
    """Let the message of a StageError begin with the name of the adapter that `run` is about, if it is about one."""
    try:
        yield
    except StageError as error:
        if run.workspace.adapter:
            error.args = (f"adapter {run.workspace.adapter}: {error}",)
        raise


class AdapterProgress:
    """A ProgressSink for one adapter that reports to that of the job: its steps follow those of the one before."""

    def __init__(self, progress: ProgressSink, adapter: str, steps: Sequence[int], place: int) -> None:
        self._progress, self._adapter = progress, adapter
        self._before, self._whole = sum(steps[:place]), sum(steps)
        self._after = sum(steps[place + 1 :])
        self._pace = 0.0
        """Seconds of a step, as this adapter has shown it last."""

    def update(self, step: int, total_steps: int, **told: Unpack[ProgressUpdate]) -> None:
        """As ProgressSink; time left is that of all adapters, of which the later ones go at the pace of this one."""
        changed: ProgressUpdate = {**told, "adapter": self._adapter}
        if (point := told.get("point")) is not None:
            step_of_all = {"step": self._before + point.step, "adapter": self._adapter}
            changed["point"] = point.model_copy(update=step_of_all)
        if (metrics := told.get("metrics")) is not None:
            changed["metrics"] = metrics.model_copy(update={"adapter": self._adapter})
        if (checkpoint := told.get("checkpoint")) is not None:
            changed["checkpoint"] = checkpoint.model_copy(update={"step": self._before + checkpoint.step})
        if (left := told.get("seconds_left")) is not None:
            self._pace = left / (total_steps - step) if step < total_steps else self._pace
            changed["seconds_left"] = round(left + self._pace * self._after)
        self._progress.update(self._before + step, self._whole, **changed)
