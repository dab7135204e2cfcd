"""The two models of an evaluation, tuned and as the job found it, one at a time in memory. Must not measure."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from transformers import PreTrainedModel

from finetune_trainer.models.load import load_model, load_tuned
from finetune_trainer.run import Run

TUNED, CONTINUED = "default", "continued"
"""PEFT's names of the two adapters."""


class Contestants:
    """Tuned model of a run, and the one that it started from.

    An adapter is switched off for the base, or changed for the one that it continues; a whole model makes room for it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tuned: PreTrainedModel | None = None

    def tuned(self) -> PreTrainedModel:
        """What training made."""
        self._tuned = load_tuned(self._run)
        return self._tuned

    @contextmanager
    def baseline(self) -> Iterator[PreTrainedModel]:
        """What training started from, in the same precision and attention: the base, or the continued adapter on it."""
        if isinstance(self._tuned, PeftModel) and self._run.spec.method.continue_from:
            self._tuned.load_adapter(self._run.workspace.continued, CONTINUED)
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
