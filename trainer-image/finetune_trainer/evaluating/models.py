"""The two models of an evaluation, tuned and untouched, one at a time in memory. Must not measure anything."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from transformers import PreTrainedModel

from finetune_trainer.models.load import load_model, load_tuned
from finetune_trainer.run import Run


class Contestants:
    """Tuned model and base model of a run. An adapter is switched off for the base; a whole model makes room for it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tuned: PreTrainedModel | None = None

    def tuned(self) -> PreTrainedModel:
        """What training made."""
        self._tuned = load_tuned(self._run)
        return self._tuned

    @contextmanager
    def baseline(self) -> Iterator[PreTrainedModel]:
        """The untouched base model, in the same precision and attention."""
        if isinstance(self._tuned, PeftModel):
            with self._tuned.disable_adapter():
                yield self._tuned
            return
        self._tuned = None
        gc.collect()
        training = self._run.plan.training
        yield load_model(self._run.workspace.model, training.precision, training.attention)
