"""Low-rank updates that do not start at zero: PiSSA, OLoRA and LoftQ.

Such an adapter starts as B0 A0 and means something only on the base that it was made for: PiSSA and OLoRA take s B0 A0
out of the weights, LoftQ adds it to quantized ones to make up for the rounding. So what is saved is the difference to
the start, W + s (B A - B0 A0): an ordinary LoRA of twice the rank, for the untouched base, that any library reads. The
start values are kept in the workspace, because a decomposition is not the same to the last bit on every machine. PEFT's
own conversion knows neither LoftQ nor rank stabilisation.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from finetune_api.spec import MethodSpec
from finetune_trainer.errors import InvalidModelError
from finetune_trainer.models.folder_check import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_trainer.result import write_atomically

Start = Mapping[str, torch.Tensor]
"""A0 [rank, inputs] and B0 [outputs, rank] of each adapted layer, by parameter name."""
ADAPTER = "default"
_ROUNDS = 16
"""Power iterations of the randomised SVD."""
_OVERSAMPLING = 8


def starts_away_from_zero(method: MethodSpec) -> bool:
    """Whether the update of `method` does not start at zero."""
    return method.initialization != "default"


def keep_start(model: PeftModel, file: Path) -> None:
    """Write the values that the update of `model` has now to `file`, whole or not at all."""
    write_atomically(file, save({name: p.detach().cpu().contiguous() for name, p in _low_rank(model).items()}))


def restore_start(model: PeftModel, method: MethodSpec, file: Path) -> None:
    """Start `model`, whose base is untouched, as the one did that wrote `file`. Raises OSError or SafetensorError."""
    start = load_file(file)
    for name, parameter in _low_rank(model).items():
        parameter.data = start[name].to(parameter.device)
    if method.initialization != "loftq":
        for layer in _layers(model).values():
            _take_out(layer)


@torch.no_grad()
def initialize_loftq(model: PeftModel, base: Path) -> None:
    """Start the update of `model` at the best low-rank fit of what quantization took from the weights in `base`.

    Raises InvalidModelError when a weight is not found there.
    """
    files = _files_by_tensor(base)
    for name, layer in _layers(model).items():
        if f"{name}.weight" not in files:
            raise InvalidModelError(
                f"method.initialization: loftq looks for the tensor {name}.weight, which the model's files do not have "
                "under this name; use initialization: default"
            )
        with safe_open(files[f"{name}.weight"], framework="pt") as stored:
            weight = stored.get_tensor(f"{name}.weight").to(_device(layer)).float()
        lost = weight - dequantize_module_weight(layer.get_base_layer()).float()
        rank, scaling = layer.r[ADAPTER], layer.scaling[ADAPTER]
        u, s, v = torch.svd_lowrank(lost / scaling, q=min(rank + _OVERSAMPLING, *lost.shape), niter=_ROUNDS)
        root = s[:rank].sqrt()
        layer.lora_A[ADAPTER].weight.data = (v[:, :rank] * root).T.contiguous()
        layer.lora_B[ADAPTER].weight.data = (u[:, :rank] * root).contiguous()


def save_as_plain_lora(folder: Path, start_file: Path) -> None:
    """Turn the adapter in `folder`, as PEFT saved it, into a LoRA of twice the rank on the untouched base."""
    start = load_file(start_file)
    weights = load_file(folder / ADAPTER_WEIGHTS)
    for name, weight in weights.items():
        first = start.get(_parameter_name(name))
        if first is not None and "lora_A" in name:
            weights[name] = torch.cat([weight, first.to(weight)], dim=0)
        elif first is not None:
            weights[name] = torch.cat([weight, -first.to(weight)], dim=1)
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    # The scale must stay: alpha / rank, or alpha / sqrt(rank).
    factor = math.sqrt(2) if config["use_rslora"] else 2
    config |= {"r": 2 * config["r"], "lora_alpha": factor * config["lora_alpha"], "init_lora_weights": True}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _low_rank(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name}


def _layers(model: PeftModel) -> dict[str, LoraLayer]:
    """Adapted layers by the name that they have in the base."""
    named = model.get_base_model().named_modules()
    return {name: module for name, module in named if isinstance(module, LoraLayer) and module.lora_A}


@torch.no_grad()
def _take_out(layer: LoraLayer) -> None:
    """As PEFT does it, in the same order of operations, so that a resumed run goes on bit by bit."""
    weight = layer.get_base_layer().weight
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    weight.data = (weight.data.float() - layer.scaling[ADAPTER] * b @ a).to(weight.dtype)


def _parameter_name(saved: str) -> str:
    """PEFT leaves the adapter's name out when it saves."""
    return saved.removesuffix(".weight") + f".{ADAPTER}.weight"


def _files_by_tensor(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            found |= dict.fromkeys(stored.keys(), file)
    return found


def _device(layer: LoraLayer) -> torch.device:
    device: torch.device = layer.get_base_layer().weight.device
    return device
