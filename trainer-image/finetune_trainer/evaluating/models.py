"""The two models of an evaluation, tuned and as the job found it, one at a time in memory. Must not judge them."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from peft import PeftModel
from transformers import PreTrainedModel

from finetune_trainer.evaluating.losses import OnRows
from finetune_trainer.evaluating.measuring import Task
from finetune_trainer.evaluating.row_progress import RowProgress
from finetune_trainer.models.adapters import load_adapter_values
from finetune_trainer.models.continued_adapter import kept_adapter
from finetune_trainer.models.load import load_model, load_tuned
from finetune_trainer.run import Run

TUNED, CONTINUED = "default", "continued"
"""PEFT's names of the two adapters."""

TaskT = TypeVar("TaskT", bound=Task)
Found = TypeVar("Found")


class Contestants:
    """Tuned model of a run, and the one that it started from.

    An adapter is switched off for the base, or changed for the one that it continues; a whole model makes room for it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tuned: PreTrainedModel | None = None

    @property
    def tuned(self) -> PreTrainedModel:
        """What training made. Whoever keeps it keeps the room that the base of a fully tuned model needs."""
        if self._tuned is None:
            self._tuned = load_tuned(self._run)
        return self._tuned

    def asked(
        self, question: Callable[[PreTrainedModel, TaskT, OnRows], Found], task: TaskT, *, baseline: bool
    ) -> tuple[Found, Found | None]:
        """What `question` finds of the tuned model and, where `baseline` is wanted, of what training started from."""
        on_rows = RowProgress(self._run, len(task.rows), task.passes * (1 + baseline))
        found = question(self.tuned, task, on_rows)
        if not baseline:
            return found, None
        with self._baseline() as model:
            return found, question(model, task, on_rows)

    @contextmanager
    def _baseline(self) -> Iterator[PreTrainedModel]:
        """What training started from, in the same precision and attention: the base, or the continued adapter on it."""
        if isinstance(self._tuned, PeftModel) and self._run.spec.method.continue_from:
            self._tuned.add_adapter(CONTINUED, self._tuned.peft_config[TUNED])
            load_adapter_values(self._tuned, kept_adapter(self._run), CONTINUED)
            self._tuned.set_adapter(CONTINUED)
            yield self._tuned.eval()
            self._tuned.set_adapter(TUNED)
            self._tuned.delete_adapter(CONTINUED)
            return
        if isinstance(self._tuned, PeftModel):
            with self._tuned.disable_adapter():
                yield self._tuned
            return
        self._tuned = None
        gc.collect()
        training = self._run.plan.training
        yield load_model(self._run.workspace.model, training.precision, training.attention)
