"""Which weights are trained: an adapter on a frozen base, or all of them."""

from pathlib import Path

import numpy as np
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, set_seed

from finetune_api.spec import MethodSpec
from finetune_api.status import PlannedMethod
from finetune_trainer.errors import InvalidModelError, InvalidSpecError
from finetune_trainer.models.adaptation import is_feedforward
from finetune_trainer.models.folder_check import ADAPTER_WEIGHTS
from finetune_trainer.models.heads import PEFT_TASKS, Head, head_name
from finetune_trainer.models.inspection import HEAD_MODULES

ALL_LINEAR = "all-linear"
START_VALUES = {"pissa": "pissa_niter_16", "olora": "olora"}
"""method.initialization -> PEFT's name; sixteen rounds of the randomised SVD take seconds where an exact one takes
minutes, and find the same subspace. LoftQ has its own module, since PEFT's needs CUDA."""
_LEVELS = 1 << 16


def make_trainable(
    model: PreTrainedModel,
    planned: PlannedMethod,
    method: MethodSpec,
    seed: int,
    *,
    started: bool = False,
    head: Head | None = None,
) -> PreTrainedModel:
    """`model` with what the plan trains in float32 and the rest frozen; the start values follow from `seed`.

    With `started` they are left to the caller, who has those of an earlier attempt (initialization.py). A `head` is
    trained whole, whatever the method.
    Raises InvalidSpecError when the modules that the plan names are not in the model.
    """
    if planned.type == "full":
        return model.requires_grad_(requires_grad=True)
    set_seed(seed)
    config = adapter_config(planned, method, started=started)
    if head is not None:
        _add_head(config, head, head_name(model))
    try:
        tuned = get_peft_model(model, config)
    except ValueError as error:
        raise InvalidSpecError(
            f"method.targetModules or method.modulesToSave does not fit the model: {error}"
        ) from error
    for parameter in trainable(tuned).values():
        parameter.data = parameter.data.float()
    if next(model.parameters()).device.type == "cpu":
        _use_fast_dropout(tuned)
    return tuned


def adapter_config(planned: PlannedMethod, method: MethodSpec, *, started: bool = False) -> PeftConfig:
    """PEFT's configuration of the planned adapter. A regular expression stands in the spec, names in the plan."""
    expression = isinstance(method.target_modules, str) and method.target_modules != "auto"
    names = planned.target_modules or ALL_LINEAR
    targets = method.target_modules if expression else names
    modules_to_save = method.modules_to_save or None
    if planned.type == "adapter":
        feedforward = [name for name in planned.target_modules if is_feedforward(name)]
        return IA3Config(
            target_modules=targets,
            feedforward_modules=feedforward,
            modules_to_save=modules_to_save,
            task_type="CAUSAL_LM",
        )
    return LoraConfig(
        r=planned.rank or method.rank,
        lora_alpha=planned.alpha if planned.alpha is not None else method.alpha,
        lora_dropout=method.dropout,
        use_rslora=method.rank_stabilized,
        use_dora=planned.type == "dora",
        init_lora_weights=True if started else START_VALUES.get(method.initialization, True),
        target_modules=targets,
        modules_to_save=modules_to_save,
        task_type="CAUSAL_LM",
    )


def _add_head(config: PeftConfig, head: Head, name: str) -> None:
    """Save the head with the adapter. An expression for all layers must not adapt it: PEFT cannot do both."""
    config.task_type = PEFT_TASKS[head.task]
    config.modules_to_save = [module for module in (config.modules_to_save or []) if module not in HEAD_MODULES]
    if isinstance(config.target_modules, str):
        config.exclude_modules = {name}


def load_adapter_values(model: PeftModel, folder: Path, adapter: str = "default") -> None:
    """Give an adapter of `model` the values in `folder`, whose configuration is not read: it may be anybody's.

    Raises InvalidModelError when they are those of another adapter.
    """
    try:
        values = load_file(folder / ADAPTER_WEIGHTS)
        report = set_peft_model_state_dict(model, values, adapter_name=adapter)
    except (RuntimeError, KeyError, SafetensorError) as error:
        raise InvalidModelError(f"method.continueFrom: the adapter is not one of this job's model: {error}") from error
    absent = sorted(name for name in report.missing_keys if adapter in name.split("."))
    if absent or report.unexpected_keys:
        names = ", ".join([*absent, *report.unexpected_keys][:5])
        raise InvalidModelError(
            f"method.continueFrom: the adapter lacks {len(absent)} tensors of this job's and has "
            f"{len(report.unexpected_keys)} others ({names})"
        )


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class FastDropout(torch.nn.Module):
    """Dropout with a mask from NumPy's SFC64, seeded by torch's generator: the same distribution, a third of the time.

    torch draws the mask on one thread, one number per element, which is a sixth of a LoRA step on a CPU. The rate is
    rounded to 1/65536 and the scale follows the rounded rate, so the expectation is exact. Reproducible and resumable
    like torch's own, because every mask follows from torch's random state.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(rate * _LEVELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` of any shape and floating type, with elements dropped in training."""
        if not self.training or self.dropped == 0:
            return x
        seed = int(torch.randint(2**63 - 1, ()))
        words = np.random.SFC64(seed).random_raw(-(-x.numel() // 4)).view(np.uint16)[: x.numel()]
        kept = torch.from_numpy(words >= self.dropped).view(x.shape)
        return x * kept * (_LEVELS / (_LEVELS - self.dropped))


def _use_fast_dropout(model: PeftModel) -> None:
    for module in model.modules():
        dropouts = getattr(module, "lora_dropout", None)
        if isinstance(dropouts, torch.nn.ModuleDict):
            for name, dropout in dropouts.items():
                if isinstance(dropout, torch.nn.Dropout):
                    dropouts[name] = FastDropout(dropout.p)
