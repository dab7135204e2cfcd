"""What must hold for a run to count: the planned strategy runs, every number is finite, something was learned.

Each guard raises and names the way out. Must not repair anything.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import Trainer

from finetune_api.status import Plan
from finetune_trainer.errors import LearnedNothingError, NonFiniteLossError, StrategyMismatchError
from finetune_trainer.models.adapters import trainable

WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")
_REMEDY = "lower training.learningRate, or set training.precision to fp32"


def require_planned_strategy(plan: Plan, environment: Mapping[str, str]) -> None:
    """Raises StrategyMismatchError unless this is the one process, with one accelerator at most, that is planned."""
    processes = int(environment.get("WORLD_SIZE", "1"))
    if plan.strategy != "none" or plan.world_size != 1:
        raise StrategyMismatchError(
            f"the plan asks for strategy {plan.strategy} over {plan.world_size} processes; this trainer runs none in 1"
        )
    if processes != 1:
        raise StrategyMismatchError(
            f"WORLD_SIZE is {processes}, but the plan asks for strategy none, which is 1 process"
        )
    if torch.cuda.device_count() > 1:
        raise StrategyMismatchError(
            f"{torch.cuda.device_count()} accelerators are visible, but strategy none uses one: "
            "set resources.accelerator.count to 1"
        )


def require_running_strategy(trainer: Trainer) -> None:
    """Raises StrategyMismatchError when a library has wrapped or sharded the model after all."""
    wrapper = type(trainer.model_wrapped).__name__
    running = str(trainer.accelerator.distributed_type.value)
    sharded = any(type(parameter).__name__ == "DTensor" for parameter in trainer.model.parameters())
    if wrapper in WRAPPERS or running != "NO" or trainer.accelerator.num_processes != 1 or sharded:
        raise StrategyMismatchError(
            f"the plan asks for strategy none, but {running} runs over {trainer.accelerator.num_processes} processes "
            f"with the model as {wrapper}"
        )


def require_finite(name: str, value: float, step: int) -> None:
    """Raises NonFiniteLossError that names `step`, the optimizer step in which `value` arose."""
    if not math.isfinite(value):
        raise NonFiniteLossError(f"{name} became {value} at step {step}; nothing was saved after it: {_REMEDY}")


def require_finite_weights(model: torch.nn.Module, step: int) -> None:
    """Raises NonFiniteLossError when a trained weight is NaN or infinite, so that it is never saved."""
    for name, parameter in trainable(model).items():
        if not bool(torch.isfinite(parameter).all()):
            raise NonFiniteLossError(f"{name} is not finite after step {step}; it was not saved: {_REMEDY}")


def fingerprints(model: torch.nn.Module) -> dict[str, str]:
    """SHA-256 of each trained weight of an adapter, by name; empty for full tuning, whose start is on disk."""
    if not isinstance(model, PeftModel):
        return {}
    return {name: _fingerprint(weight) for name, weight in trainable(model).items()}


def fingerprints_of(module: torch.nn.Module) -> dict[str, str]:
    """SHA-256 of each weight of `module`, by name."""
    return {name: _fingerprint(weight) for name, weight in module.named_parameters()}


def require_learning(model: torch.nn.Module, base: Path, start: Mapping[str, str]) -> None:
    """Raises LearnedNothingError unless the trained weights exist, are finite, and differ from those they started from.

    `base` is the folder of the untouched model, against which full tuning is compared; `start` are the fingerprints
    of an adapter.
    """
    weights = trainable(model)
    if not weights:
        raise LearnedNothingError("no weight was trained: see method.targetModules")
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise LearnedNothingError(f"{name} is not finite after training: {_REMEDY}")
    # Where B did not move, weight decay may have moved A and the magnitudes all the same.
    low_rank = {name: weight for name, weight in weights.items() if "lora_B" in name}
    learned = _moved(low_rank or weights, start) if start else _differs(weights, base)
    if not learned:
        raise LearnedNothingError(
            "the weights are unchanged after training: raise training.learningRate or the number of steps, "
            "and see that rows carry loss (dataset.lossOn)"
        )


def _moved(weights: Mapping[str, torch.Tensor], start: Mapping[str, str]) -> bool:
    return any(_fingerprint(weight) != start[name] for name, weight in weights.items())


def _fingerprint(weight: torch.Tensor) -> str:
    return hashlib.sha256(weight.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


def _differs(weights: Mapping[str, torch.Tensor], base: Path) -> bool:
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            names = set(stored.keys())
            for name, weight in weights.items():
                if name in names and not torch.equal(weight.detach().cpu(), stored.get_tensor(name).to(weight.dtype)):
                    return True
    return False
