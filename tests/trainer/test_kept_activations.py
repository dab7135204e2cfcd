"""What the estimate says that the backward pass needs of a layer, against what autograd keeps of it, byte by byte."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import PlannedMethod
from finetune_trainer.models.adapters import make_trainable
from finetune_trainer.models.inspection import ModelFacts, inspect_model
from finetune_trainer.models.load import DTYPES, load_model
from finetune_trainer.models.quantization import bitsandbytes_config
from finetune_trainer.models.safetensors_check import check_safetensors
from finetune_trainer.planning.memory import Precision, TrainingShape, kept_bytes
from finetune_trainer.planning.resolve import adapter_of
from tiny_models import build_tiny_model

pytestmark = pytest.mark.trainer
ROWS, TOKENS = 4, 64
DATASET = {"train": {"source": "pvc://d/rows.jsonl"}}
SIZES = {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of layers: what a model with more of them keeps beyond one with fewer is what its layers keep."""
    folder = tmp_path_factory.mktemp("models")
    return {
        layers: build_tiny_model("llama", folder / str(layers), num_hidden_layers=layers, **SIZES) for layers in (2, 4)
    }


class Saved:
    """A tensor in autograd's graph, for as long as that needs it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def kept_by_autograd(model: Any, precision: Precision) -> int:
    """Bytes of the storages, other than weights, that the graph of a forward pass over padded rows holds."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    graph: weakref.WeakSet[Saved] = weakref.WeakSet()

    def save(tensor: torch.Tensor) -> Saved:
        saved = Saved(tensor)
        graph.add(saved)
        return saved

    ids = torch.arange(ROWS * TOKENS).reshape(ROWS, TOKENS) % 100
    mask = torch.ones_like(ids)
    mask[0, TOKENS // 2 :] = 0
    adapted = hasattr(model, "peft_config")
    network = model.get_base_model().base_model if adapted else model.base_model
    autocast = torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32" and not adapted)
    with autocast, torch.autograd.graph.saved_tensors_hooks(save, lambda saved: saved.tensor):
        output = network(input_ids=ids, attention_mask=mask, use_cache=False)
    assert output.last_hidden_state.requires_grad
    storages = {one.tensor.untyped_storage().data_ptr(): one.tensor.untyped_storage().nbytes() for one in graph}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


METHODS = [
    {"type": "full"},
    {"type": "lora", "dropout": 0.1},
    {"type": "lora", "dropout": 0},
    {"type": "dora", "dropout": 0.1},
    {"type": "dora", "dropout": 0},
    {"type": "qlora", "dropout": 0.1},
    {"type": "qlora", "dropout": 0},
    {"type": "adapter"},
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_estimate_of_a_layer_is_what_autograd_keeps(
    models: dict[int, Path], method: dict[str, Any], precision: Precision
) -> None:
    estimate, kept = of_a_layer(models, method, precision)
    assert estimate == pytest.approx(kept, rel=0.01)


def test_a_few_adapted_layers_are_estimated_as_if_none_shared_an_input(models: dict[int, Path]) -> None:
    estimate, kept = of_a_layer(models, {"type": "lora", "dropout": 0, "targetModules": ["q_proj", "v_proj"]}, "fp32")
    assert kept < estimate < 1.07 * kept


def of_a_layer(models: dict[int, Path], method: dict[str, Any], precision: Precision) -> tuple[int, float]:
    """Bytes for one layer: the estimate, and what autograd keeps."""
    spec = FineTuneJobSpec.model_validate({"model": {"source": "pvc://m"}, "dataset": DATASET, "method": method})
    few, many = (kept_by_autograd(trainable_model(spec, path, precision), precision) for path in models.values())
    facts = facts_of(models[4])
    shape = TrainingShape(precision, ROWS, TOKENS, supervised_share=1, checkpointing=False, on_accelerator=False)
    elements = sum(layer.inputs * layer.outputs for layer in facts.linear_layers) // facts.layers
    copies = 2 * elements if (method["type"], precision) == ("full", "bf16") else 0  # autocast's, counted as weights
    return kept_bytes(facts, adapter_of(spec, facts), shape), (many - few) / 2 - copies


def trainable_model(spec: FineTuneJobSpec, path: Path, precision: Precision) -> Any:
    held = "fp32" if spec.method.type == "full" else precision
    base = load_model(path, held, "sdpa", bitsandbytes_config(spec.method, DTYPES[precision]))
    adapter = adapter_of(spec, facts_of(path))
    names = sorted({layer.name.rpartition(".")[2] for layer in adapter.layers}) if adapter else []
    planned = PlannedMethod(type=spec.method.type, rank=spec.method.rank, alpha=16, target_modules=names)
    return make_trainable(base, planned, spec.method, 0).train()


def facts_of(path: Path) -> ModelFacts:
    return inspect_model(path, check_safetensors(path / "model.safetensors", "model"), "pvc://m")
