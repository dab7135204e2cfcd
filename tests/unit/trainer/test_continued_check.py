"""Which adapter a job may continue: the one that its spec describes, and how the difference is told."""

from typing import Any

import pytest

from finetune_api.spec import MethodSpec
from finetune_trainer.errors import InvalidSpecError
from finetune_trainer.models.continued_adapter import ContinuedAdapter
from finetune_trainer.models.continued_check import check_continued
from finetune_trainer.models.inspection import LinearLayer
from finetune_trainer.models.safetensors_check import TensorHeader
from finetune_trainer.planning.memory import Adapter, AdapterKind

LAYERS = tuple(LinearLayer(f"model.layers.{i}.self_attn.q_proj", 64, 32) for i in range(2))
CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": False, "use_dora": False, "bias": "none"}
SOURCE = {"source": "pvc://models/first"}


def tensors(rank: int = 8, layers: tuple[LinearLayer, ...] = LAYERS, *others: str) -> list[TensorHeader]:
    parts = [
        TensorHeader(f"base_model.model.{layer.name}.{part}.weight", "F32", shape)
        for layer in layers
        for part, shape in (("lora_A", (rank, layer.inputs)), ("lora_B", (layer.outputs, rank)))
    ]
    return [*parts, *(TensorHeader(f"base_model.model.{name}.weight", "F32", (4, 4)) for name in others)]


def check(config: dict[str, Any], headers: list[TensorHeader], **method: Any) -> None:
    spec = MethodSpec.model_validate({"rank": 8, "alpha": 16, "continueFrom": SOURCE, **method})
    kind: AdapterKind = {"dora": "dora", "adapter": "ia3"}.get(spec.type, "lora")  # type: ignore[assignment]
    planned = Adapter(rank=spec.rank, layers=LAYERS, dropout=spec.dropout, kind=kind)
    check_continued(ContinuedAdapter("pvc://models/first", "sha256:0", config, headers), spec, planned)


def test_the_described_adapter_is_taken() -> None:
    check(CONFIG, tensors())
    check(CONFIG, tensors(8, LAYERS, "lm_head"), modulesToSave=["lm_head"])
    check({"peft_type": "LORA", "r": 8, "lora_alpha": 16.0}, tensors(), type="qlora")


def test_dora_and_ia3_have_parts_of_their_own() -> None:
    magnitudes = [
        TensorHeader(f"base_model.model.{layer.name}.lora_magnitude_vector", "F32", (layer.outputs,))
        for layer in LAYERS
    ]
    check({**CONFIG, "use_dora": True}, [*tensors(), *magnitudes], type="dora")
    factors = [TensorHeader(f"base_model.model.{layer.name}.ia3_l", "F32", (layer.outputs, 1)) for layer in LAYERS]
    scaled = MethodSpec.model_validate({"type": "adapter", "continueFrom": SOURCE})
    planned = Adapter(rank=0, layers=LAYERS, dropout=0.0, kind="ia3")
    check_continued(ContinuedAdapter("pvc://m/f", "sha256:0", {"peft_type": "IA3"}, factors), scaled, planned)


@pytest.mark.parametrize(
    ("config", "headers", "method", "words"),
    [
        ({"r": 16}, tensors(16), {}, "method.rank is 8, its own is 16"),
        ({"lora_alpha": 32}, tensors(), {}, "method.alpha is 16, its own is 32"),
        ({"use_rslora": True}, tensors(), {}, "method.rankStabilized is false, its own is true"),
        ({"use_dora": True}, tensors(), {}, "method.type is lora, and it is one of dora"),
        ({}, tensors(), {"type": "dora"}, "method.type is dora, and it is not one of dora"),
        ({"peft_type": "IA3"}, [], {}, "it is of PEFT's type IA3, and method.type: lora is LORA"),
        ({"peft_type": "PROMPT_TUNING"}, [], {}, "it is of PEFT's type PROMPT_TUNING"),
        ({"rank_pattern": {"q_proj": 4}}, tensors(), {}, "rank_pattern of its adapter_config.json cannot be continued"),
        ({"alpha_pattern": {"q_proj": 4}}, tensors(), {}, "alpha_pattern of its adapter_config.json cannot be"),
        ({"bias": "all"}, tensors(), {}, "bias: all of its adapter_config.json cannot be continued"),
        ({}, tensors(8, LAYERS[:1]), {}, "it sits on 1 layers [q_proj], and method.targetModules means 2 [q_proj]"),
        ({}, tensors(8, LAYERS, "lm_head"), {}, "method.modulesToSave is [], its own is [lm_head]"),
        ({}, tensors(), {"modulesToSave": ["lm_head"]}, "method.modulesToSave is [lm_head], its own is []"),
        (
            {},
            tensors(8, tuple(LinearLayer(layer.name, 32, 32) for layer in LAYERS)),
            {},
            "on model.layers.0.self_attn.q_proj it has 512 parameters, on this base 768: it was trained on another",
        ),
    ],
)
def test_each_difference_is_told(
    config: dict[str, Any], headers: list[TensorHeader], method: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidSpecError) as caught:
        check({**CONFIG, **config}, headers, **method)
    assert "method.continueFrom: pvc://models/first does not go with this job: " in str(caught.value)
    assert words in str(caught.value)


def test_all_differences_are_told_at_once() -> None:
    with pytest.raises(InvalidSpecError) as caught:
        check({**CONFIG, "r": 4, "lora_alpha": 8}, tensors(4))
    assert "method.rank is 8, its own is 4; method.alpha is 16, its own is 8" in str(caught.value)
