"""Whether the adapter that a job continues is the one that its spec describes. Pure.

A user who writes rank 8 and continues an adapter of rank 16 would otherwise get something else than was written.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune_api.spec import MethodSpec
from finetune_trainer.errors import InvalidSpecError
from finetune_trainer.models.continued_adapter import ContinuedAdapter
from finetune_trainer.models.folder_check import ADAPTER_CONFIG
from finetune_trainer.models.safetensors_check import TensorHeader
from finetune_trainer.planning.memory import Adapter

KINDS = {"adapter": "IA3"}
"""method.type -> peft_type; LORA for all others."""
UNEVEN = (
    "alpha_pattern",
    "layer_replication",
    "lora_bias",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
)
"""Settings of PEFT with which an adapter is not the same on every layer; the spec has no fields for them."""
_PREFIX = "base_model.model."
_PARTS = (".lora_A.", ".lora_B.", ".lora_magnitude_vector", ".ia3_l")


def check_continued(adapter: ContinuedAdapter, method: MethodSpec, planned: Adapter) -> None:
    """Raises InvalidSpecError unless `adapter` is what `method` and the plan's adapter describe; names every field."""
    wrong = [*_differences(adapter, method, planned)]
    if wrong:
        raise InvalidSpecError(f"method.continueFrom: {adapter.uri} does not go with this job: {'; '.join(wrong)}")


def _differences(adapter: ContinuedAdapter, method: MethodSpec, planned: Adapter) -> Iterator[str]:
    config = adapter.config
    kind = KINDS.get(method.type, "LORA")
    if config.get("peft_type") != kind:
        yield f"it is of PEFT's type {config.get('peft_type')}, and method.type: {method.type} is {kind}"
        return
    if kind == "LORA":
        yield from _low_rank_differences(config, method)
    yield from (f"{name} of its {ADAPTER_CONFIG} cannot be continued" for name in UNEVEN if config.get(name))
    if config.get("bias", "none") != "none":
        yield f"bias: {config['bias']} of its {ADAPTER_CONFIG} cannot be continued"
    yield from _layer_differences(adapter.tensors, planned)
    saved, asked = _saved_modules(adapter.tensors), sorted(method.modules_to_save)
    if saved != asked:
        yield f"method.modulesToSave is [{', '.join(asked)}], its own is [{', '.join(saved)}]"


def _low_rank_differences(config: Mapping[str, Any], method: MethodSpec) -> Iterator[str]:
    dora = bool(config.get("use_dora"))
    if dora != (method.type == "dora"):
        yield f"method.type is {method.type}, and it is {'one of dora' if dora else 'not one of dora'}"
    compared = {
        "rank": (method.rank, config.get("r")),
        "alpha": (method.alpha, config.get("lora_alpha")),
        "rankStabilized": (method.rank_stabilized, bool(config.get("use_rslora"))),
    }
    yield from (
        f"method.{field} is {_plain(asked)}, its own is {_plain(own)}"
        for field, (asked, own) in compared.items()
        if asked != own
    )


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _layer_differences(tensors: Sequence[TensorHeader], planned: Adapter) -> Iterator[str]:
    own = {_layer(tensor.name): 0 for tensor in tensors if _is_part(tensor.name)}
    for tensor in tensors:
        if _is_part(tensor.name):
            own[_layer(tensor.name)] += tensor.elements
    asked = {layer.name: _elements(planned, layer.name) for layer in planned.layers}
    if own.keys() != asked.keys():
        yield (
            f"it sits on {len(own)} layers {_short(own)}, and method.targetModules means {len(asked)} {_short(asked)}"
        )
    elif own != asked:
        name = next(name for name in asked if own[name] != asked[name])
        yield f"on {name} it has {own[name]} parameters, on this base {asked[name]}: it was trained on another base"


def _elements(planned: Adapter, name: str) -> int:
    layers = tuple(layer for layer in planned.layers if layer.name == name)
    alone = Adapter(rank=planned.rank, layers=layers, dropout=planned.dropout, kind=planned.kind)
    return alone.parameters


def _is_part(name: str) -> bool:
    return any(part in name for part in _PARTS)


def _layer(name: str) -> str:
    """Of base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight the layer in between."""
    end = min(name.index(part) for part in _PARTS if part in name)
    return name[:end].removeprefix(_PREFIX)


def _short(layers: Mapping[str, int]) -> str:
    return f"[{', '.join(sorted({name.rpartition('.')[2] for name in layers}))}]"


def _saved_modules(tensors: Sequence[TensorHeader]) -> list[str]:
    whole = (tensor.name for tensor in tensors if not _is_part(tensor.name))
    return sorted({name.removeprefix(_PREFIX).rpartition(".")[0].rpartition(".")[2] for name in whole})
