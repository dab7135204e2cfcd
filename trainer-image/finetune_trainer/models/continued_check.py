"""Whether the adapter that a job continues is the one that its spec describes. Pure.

A user who writes rank 8 and continues an adapter of rank 16 would otherwise get something else than was written; and
what PEFT knows and the spec has no field for would be lost without a word, so it is refused.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune_api.spec import MethodSpec
from finetune_trainer.errors import InvalidSpecError
from finetune_trainer.models.adaptation import is_feedforward
from finetune_trainer.models.continued_adapter import ContinuedAdapter
from finetune_trainer.models.folder_check import ADAPTER_CONFIG
from finetune_trainer.models.inspection import LinearLayer
from finetune_trainer.paths import shortened
from finetune_trainer.planning.memory import Adapter

PEFT_TYPES = {"adapter": "IA3"}
"""method.type -> peft_type; LORA for all others."""
PLAIN_STARTS = (True, False, "eva", "gaussian", "orthogonal")
"""Values of init_lora_weights with which the base is left as it is: A and B mean the same on any copy of it."""
COMPARED = ("bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "use_dora", "use_rslora")
WITHOUT_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "feedforward_modules",
    "inference_mode",
    "init_ia3_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
)
"""Settings that say where tensors are, which the tensors tell themselves, or nothing of what they mean."""
ALPHA_TOLERANCE = 1e-6
"""A published alpha may be a multiple of the root of 2."""
_PREFIX = "base_model.model."
_PARTS = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector", ".ia3_l")


def check_continued(adapter: ContinuedAdapter, method: MethodSpec, planned: Adapter) -> None:
    """Raises InvalidSpecError unless `adapter` is what `method` and the plan's adapter describe; names every field."""
    wrong = [*_differences(adapter, method, planned)]
    if wrong:
        raise InvalidSpecError(f"method.continueFrom: {adapter.uri} does not go with this job: {'; '.join(wrong)}")


def _differences(adapter: ContinuedAdapter, method: MethodSpec, planned: Adapter) -> Iterator[str]:
    config, wanted = adapter.config, PEFT_TYPES.get(method.type, "LORA")
    if config.get("peft_type") != wanted:
        yield f"it is of PEFT's type {config.get('peft_type')}, and method.type: {method.type} is {wanted}"
        return
    if wanted == "LORA":
        yield from _low_rank_differences(config, method)
    yield from _unknown_settings(config)
    own = {tensor.name: tensor.shape for tensor in adapter.tensors}
    yield from _layer_differences({name: shape for name, shape in own.items() if _is_part(name)}, planned)
    whole = {name: shape for name, shape in own.items() if not _is_part(name)}
    yield from _whole_differences(whole, method.modules_to_save, planned)


def _low_rank_differences(config: Mapping[str, Any], method: MethodSpec) -> Iterator[str]:
    dora = bool(config.get("use_dora"))
    if dora != (method.type == "dora"):
        yield f"method.type is {method.type}, and it is {'one of dora' if dora else 'not one of dora'}"
    if method.rank != config.get("r"):
        yield f"method.rank is {method.rank}, its own is {config.get('r')}"
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or not math.isclose(method.alpha, alpha, rel_tol=ALPHA_TOLERANCE):
        yield f"method.alpha is {method.alpha:.10g}, its own is {alpha}"
    stabilized = bool(config.get("use_rslora"))
    if method.rank_stabilized != stabilized:
        yield f"method.rankStabilized is {str(not stabilized).lower()}, its own is {str(stabilized).lower()}"


def _unknown_settings(config: Mapping[str, Any]) -> Iterator[str]:
    start, bias = config.get("init_lora_weights", True), config.get("bias") or "none"
    if start not in PLAIN_STARTS:
        yield f"init_lora_weights: {start} of its {ADAPTER_CONFIG} changes the base; save it as a plain LoRA first"
    if bias != "none":
        yield f"bias: {bias} of its {ADAPTER_CONFIG} cannot be continued"
    others = [name for name, value in config.items() if value and name not in (*COMPARED, *WITHOUT_EFFECT)]
    if others:
        yield f"{shortened(others)} of its {ADAPTER_CONFIG} cannot be continued"


def _layer_differences(own: Mapping[str, tuple[int, ...]], planned: Adapter) -> Iterator[str]:
    want = {f"{layer.name}{part}": shape for layer in planned.layers for part, shape in _parts(planned, layer)}
    found = {name.removeprefix(_PREFIX): tuple(shape) for name, shape in own.items()}
    if found.keys() != want.keys():
        strange, absent = found.keys() - want.keys(), want.keys() - found.keys()
        one = f"only the one has {min(strange)}" if strange else f"only the other has {min(absent)}"
        layers = [shortened({_layer(name).rpartition(".")[2] for name in names}) for names in (found, want)]
        yield f"it sits on [{layers[0]}], and method.targetModules means [{layers[1]}]: {one}"
        return
    for name in sorted(want):
        if found[name] != want[name]:
            yield f"{name} has the shape {found[name]}, on this base {want[name]}: it was trained on another base"
            return


def _parts(planned: Adapter, layer: LinearLayer) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Tensors of an adapted layer as PEFT names them in a file."""
    if planned.kind == "ia3":
        yield ".ia3_l", (1, layer.inputs) if is_feedforward(layer.name) else (layer.outputs, 1)
        return
    yield ".lora_A.weight", (planned.rank, layer.inputs)
    yield ".lora_B.weight", (layer.outputs, planned.rank)
    if planned.kind == "dora":
        yield ".lora_magnitude_vector", (layer.outputs,)


def _whole_differences(own: Mapping[str, tuple[int, ...]], modules: Sequence[str], planned: Adapter) -> Iterator[str]:
    """Of modules that are trained whole; one may hold others."""
    strange = [name for name in own if not any(part in modules for part in name.split("."))]
    absent = [module for module in modules if not any(module in name.split(".") for name in own)]
    if strange or absent:
        asked, found = (shortened(names) for names in (modules, {_module(name) for name in own}))
        yield f"method.modulesToSave asks for {asked}, and it has {found}"
    elif sum(map(math.prod, own.values())) != planned.saved_elements:
        yield f"{shortened(modules)} has another size than in this base: it was trained on another base"


def _is_part(name: str) -> bool:
    return any(part in name for part in _PARTS)


def _layer(name: str) -> str:
    """Of model.layers.0.self_attn.q_proj.lora_A.weight what comes before the part."""
    return name[: min((name.index(part) for part in _PARTS if part in name), default=len(name))]


def _module(name: str) -> str:
    return name.removeprefix(_PREFIX).rpartition(".")[0].rpartition(".")[2]
