"""The base model of several adapters, loaded once where they leave it untouched.

Before the next adapter the base is taken out from under the last one, and its weights are compared with those that were
loaded. A base that has changed is loaded anew. Must not decide what is trained.
"""

import gc
from collections.abc import Callable

import structlog
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.run import Run
from finetune_trainer.training.guards import fingerprints_of

_log = structlog.get_logger(__name__)
_TAKEN_OUT = ("pissa", "olora")
"""Starts that are taken out of the weights of the base."""


def can_be_shared(spec: FineTuneJobSpec) -> bool:
    """Whether adapters of this job leave the base as it was. Modules that are trained whole replace its own."""
    return not spec.method.modules_to_save and spec.method.initialization not in _TAKEN_OUT


class SharedBase:
    """One loading of the base for one adapter after the other."""

    def __init__(self, load: Callable[[Run], PreTrainedModel]) -> None:
        self._load = load
        self._tuned: PeftModel | None = None
        self._fingerprints: dict[str, str] = {}
        self._forward: dict[str, object] = {}

    def of(self, run: Run) -> PreTrainedModel:
        """The untouched base for the adapter of `run`: the one that came back, else as `load` gives it."""
        returned, self._tuned = self._untouched(), None
        gc.collect()  # a trainer and its model hold each other
        if returned is not None:
            return returned
        model = self._load(run)
        if can_be_shared(run.spec):
            self._fingerprints, self._forward = fingerprints_of(model), _own_forward(model)
        return model

    def take_back(self, run: Run, tuned: PeftModel) -> None:
        """Keep the base of `tuned`, which `run` has finished and nobody uses any more, for the next adapter."""
        self._tuned = tuned if can_be_shared(run.spec) else None

    def _untouched(self) -> PreTrainedModel | None:
        """The base that was taken back, without its adapter; None when there is none, or when it has changed."""
        if self._tuned is None:
            return None
        base = self._tuned.unload()
        # What a Trainer adds to the module: TRL a forward of its own, transformers what checkpointing needs.
        vars(base).pop("forward", None)
        vars(base).update(self._forward)
        if base.is_activation_checkpointing:
            base.activation_checkpointing_disable()
        base.disable_input_require_grads()
        if fingerprints_of(base) != self._fingerprints:
            _log.warning("the base has changed under an adapter and is loaded anew for the next one")
            return None
        return base.eval()


def _own_forward(model: PreTrainedModel) -> dict[str, object]:
    """The forward that this one module has, in place of its class's: libraries put one there while they load."""
    return {name: value for name, value in vars(model).items() if name == "forward"}
