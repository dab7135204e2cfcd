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
    saved = 16 * len(spec.modules_to_save)
    planned = Adapter(rank=spec.rank, layers=LAYERS, dropout=spec.dropout, kind=kind, saved_elements=saved)
    check_continued(ContinuedAdapter("pvc://models/first", "sha256:0", config, headers), spec, planned)


def test_the_described_adapter_is_taken() -> None:
    check(CONFIG, tensors())
    check(CONFIG, tensors(8, LAYERS, "lm_head"), modulesToSave=["lm_head"])
    check({"peft_type": "LORA", "r": 8, "lora_alpha": 16.0}, tensors(), type="qlora")
    check({**CONFIG, "init_lora_weights": "gaussian", "bias": None, "megatron_core": "megatron.core"}, tensors())


def test_a_module_that_holds_others_is_saved_under_their_names() -> None:
    check(CONFIG, tensors(8, LAYERS, "model.layers.0.mlp.up_proj"), modulesToSave=["mlp"])


def test_an_alpha_that_is_no_whole_number_is_asked_for_as_it_is_told() -> None:
    """PiSSA with rank stabilisation is published with alpha times the root of 2 (models/initialization.py)."""
    with pytest.raises(InvalidSpecError, match=r"method.alpha is 16, its own is 22.627416997969522"):
        check({**CONFIG, "lora_alpha": 16 * 2**0.5}, tensors())
    check({**CONFIG, "lora_alpha": 16 * 2**0.5}, tensors(), alpha=22.627417)


def test_a_whole_module_of_another_size_is_of_another_base() -> None:
    headers = [*tensors(), TensorHeader("base_model.model.lm_head.weight", "F32", (9, 4))]
    with pytest.raises(InvalidSpecError, match="lm_head has another size than in this base"):
        check(CONFIG, headers, modulesToSave=["lm_head"])


def test_transposed_tensors_are_of_another_base() -> None:
    headers = [TensorHeader(tensor.name, "F32", tensor.shape[::-1]) for tensor in tensors()]
    with pytest.raises(InvalidSpecError, match="it was trained on another base"):
        check(CONFIG, headers)


def test_ten_thousand_layers_are_not_listed() -> None:
    headers = [TensorHeader(f"base_model.model.x.l{i}.lora_A.weight", "F32", (8, 4)) for i in range(10_000)]
    with pytest.raises(InvalidSpecError) as caught:
        check(CONFIG, headers)
    assert len(str(caught.value)) < 400


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
        ({"lora_alpha": None}, tensors(), {}, "method.alpha is 16, its own is None"),
        ({"use_rslora": True}, tensors(), {}, "method.rankStabilized is false, its own is true"),
        ({"use_dora": True}, tensors(), {}, "method.type is lora, and it is one of dora"),
        ({}, tensors(), {"type": "dora"}, "method.type is dora, and it is not one of dora"),
        ({"peft_type": "IA3"}, [], {}, "it is of PEFT's type IA3, and method.type: lora is LORA"),
        ({"peft_type": "PROMPT_TUNING"}, [], {}, "it is of PEFT's type PROMPT_TUNING"),
        ({"rank_pattern": {"q_proj": 4}}, tensors(), {}, "rank_pattern of its adapter_config.json cannot be continued"),
        ({"alpha_pattern": {"q_proj": 4}}, tensors(), {}, "alpha_pattern of its adapter_config.json cannot be"),
        ({"init_lora_weights": "pissa_niter_4"}, tensors(), {}, "init_lora_weights: pissa_niter_4 of its adapter_conf"),
        ({"init_lora_weights": "olora"}, tensors(), {}, "changes the base; save it as a plain LoRA first"),
        ({"use_qalora": True}, tensors(), {}, "use_qalora of its adapter_config.json cannot be continued"),
        ({"a_setting_to_come": [1]}, tensors(), {}, "a_setting_to_come of its adapter_config.json cannot be continued"),
        ({"bias": "all"}, tensors(), {}, "bias: all of its adapter_config.json cannot be continued"),
        ({}, tensors(8, LAYERS[:1]), {}, "only the other has model.layers.1.self_attn.q_proj.lora_A.weight"),
        (
            {},
            [TensorHeader(f"_orig_mod.{tensor.name}", "F32", tensor.shape) for tensor in tensors()],
            {},
            "it sits on [q_proj], and method.targetModules means [q_proj]: only the one has _orig_mod.base_model.model",
        ),
        ({}, tensors(8, LAYERS, "lm_head"), {}, "method.modulesToSave asks for nothing, and it has lm_head"),
        ({}, tensors(), {"modulesToSave": ["lm_head"]}, "method.modulesToSave asks for lm_head, and it has nothing"),
        (
            {},
            tensors(8, tuple(LinearLayer(layer.name, 32, 32) for layer in LAYERS)),
            {},
            "model.layers.0.self_attn.q_proj.lora_A.weight has the shape (8, 32), on this base (8, 64): it was trained",
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
