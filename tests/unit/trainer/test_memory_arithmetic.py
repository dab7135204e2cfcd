from dataclasses import replace
from pathlib import Path

import pytest

from finetune_trainer.models.inspection import LinearLayer, ModelFacts
from finetune_trainer.planning.allocator import leaves_holes
from finetune_trainer.planning.cpu_features import multiplies_bf16
from finetune_trainer.planning.memory import (
    LOGITS_COPIES,
    LOGITS_WHOLE_BYTES,
    PARTS,
    Adapter,
    AdapterKind,
    QuantizedBase,
    TrainingShape,
    activation_bytes,
    estimate,
    optimizer_bytes,
)

FACTS = ModelFacts(
    architecture="LlamaForCausalLM",
    parameters=1_000_000,
    context_length=2048,
    hidden_size=64,
    intermediate_size=128,
    layers=4,
    vocabulary=1000,
    heads=2,
    query_width=64,
    key_value_width=32,
    caps_attention=False,
    linear_layers=(LinearLayer("model.layers.0.self_attn.q_proj", 64, 64),),
    module_elements={},
)
ADAPTER = Adapter(rank=8, layers=FACTS.linear_layers, dropout=0.0)
SHAPE = TrainingShape(
    precision="fp32", micro_batch=2, length=100, supervised_share=1.0, checkpointing=False, on_accelerator=False
)


def test_the_estimate_is_the_sum_of_its_parts() -> None:
    plan = estimate(FACTS, ADAPTER, SHAPE, 7)
    assert plan.estimated_bytes == sum(getattr(plan, part) for part in PARTS)
    assert plan.limit_bytes == 7


def test_an_adapter_needs_gradients_and_moments_for_itself_only() -> None:
    trained = 8 * (64 + 64)
    plan = estimate(FACTS, ADAPTER, SHAPE, None)
    assert (plan.gradients, plan.optimizer) == (4 * trained, 8 * trained)
    assert plan.weights == 4 * 1_000_000 + 4 * trained


LAYER = LinearLayer("model.layers.0.mlp.down_proj", 128, 64)


@pytest.mark.parametrize(("kind", "want"), [("lora", 8 * 192), ("dora", 8 * 192 + 64), ("ia3", 128)])
def test_each_kind_of_adapter_has_its_parameters(kind: AdapterKind, want: int) -> None:
    assert Adapter(rank=8, layers=(LAYER,), dropout=0.0, kind=kind).parameters == want


@pytest.mark.parametrize(
    ("bits", "double", "want"), [(4, True, 0.5 + 1.015625 / 64), (4, False, 0.5 + 4 / 64), (8, True, 1)]
)
def test_a_quantized_weight_takes_its_bits_and_its_share_of_the_constants(bits: int, double: bool, want: float) -> None:
    adapter = replace(ADAPTER, base=QuantizedBase(640_000, bits, double))
    plan = estimate(FACTS, adapter, replace(SHAPE, precision="bf16"), None)
    assert plan.weights == 2 * 360_000 + round(want * 640_000) + 6 * adapter.parameters


@pytest.mark.parametrize(
    ("optimizer", "shape", "want"),
    [
        ("adamw", (100, 50), 8 * 5000),
        ("adamw-8bit", (100, 50), 2 * 5000 + 8 * 20),
        ("adamw-8bit", (40, 50), 8 * 2000),
        ("paged-adamw-8bit", (100, 50), 2 * 5000 + 8 * 20),
        ("adafactor", (100, 50), 4 * 150),
        ("adafactor", (100, 1), 4 * 100),
        ("sgd", (100, 50), 0),
    ],
)
def test_each_optimizer_keeps_its_state(optimizer: str, shape: tuple[int, int], want: int) -> None:
    assert optimizer_bytes(optimizer, [shape]) == want


def test_a_loss_that_needs_all_logits_has_no_tiles() -> None:
    facts = replace(FACTS, vocabulary=10**7)
    shape = replace(SHAPE, whole_logits=True)
    assert estimate(facts, ADAPTER, shape, None).logits == LOGITS_COPIES * 200 * 10**7 * 4


def test_full_tuning_holds_weights_in_fp32_and_what_autocast_copies() -> None:
    plan = estimate(FACTS, None, replace(SHAPE, precision="bf16"), None)
    assert (plan.weights, plan.gradients, plan.optimizer) == (6_000_000, 4_000_000, 8_000_000)


def test_a_frozen_base_in_bf16_takes_half() -> None:
    half = estimate(FACTS, ADAPTER, replace(SHAPE, precision="bf16"), None).weights
    assert half == 2 * 1_000_000 + 6 * ADAPTER.parameters


@pytest.mark.parametrize(
    ("rows", "change", "factor"), [(2, {"micro_batch": 4}, 2), (1, {"length": 300}, 3), (1, {"length": 50}, 0.5)]
)
def test_activations_grow_with_the_tokens(rows: int, change: dict[str, int], factor: float) -> None:
    shape = replace(SHAPE, micro_batch=rows)
    want = estimate(FACTS, ADAPTER, shape, None).activations * factor
    assert estimate(FACTS, ADAPTER, replace(shape, **change), None).activations == want  # type: ignore[arg-type]


def test_padded_rows_cost_a_mask_in_every_layer() -> None:
    two, one = (estimate(FACTS, ADAPTER, replace(SHAPE, micro_batch=rows), None).activations for rows in (2, 1))
    assert two - 2 * one == (FACTS.layers + 1) * 2 * 100 * 100 * 4


def test_holes_of_the_heap_are_a_matter_of_the_cpu_and_its_allocator() -> None:
    shapes = [SHAPE, replace(SHAPE, on_accelerator=True), replace(SHAPE, leaves_holes=False)]
    glibc, gpu, tcmalloc = (estimate(FACTS, ADAPTER, shape, None).activations for shape in shapes)
    assert (glibc - gpu, glibc - tcmalloc) == (3 * 64 * 200 * 4, 3 * 64 * 200 * 4)


def test_recomputing_keeps_a_few_layers_in_place_of_all() -> None:
    facts = replace(FACTS, layers=40)
    whole = estimate(facts, ADAPTER, SHAPE, None).activations
    recomputed = estimate(facts, ADAPTER, replace(SHAPE, checkpointing=True), None).activations
    assert whole / 40 < recomputed < whole / 5


def test_every_layer_leaves_its_holes_in_the_heap_recomputed_or_not() -> None:
    def holes(shape: TrainingShape) -> int:
        elsewhere = replace(shape, on_accelerator=True)
        return activation_bytes(FACTS, ADAPTER, shape) - activation_bytes(FACTS, ADAPTER, elsewhere)

    assert holes(replace(SHAPE, checkpointing=True)) == holes(SHAPE) > 0


def test_dropout_on_the_adapter_costs_activations() -> None:
    without = estimate(FACTS, ADAPTER, SHAPE, None).activations
    assert estimate(FACTS, replace(ADAPTER, dropout=0.05), SHAPE, None).activations > without


def test_eager_attention_grows_with_the_square_of_the_length() -> None:
    def extra(length: int) -> int:
        shape = replace(SHAPE, length=length)
        eager = estimate(FACTS, ADAPTER, replace(shape, quadratic_attention=True), None).activations
        return eager - estimate(FACTS, ADAPTER, shape, None).activations

    assert extra(200) == 4 * extra(100)


def test_only_supervised_tokens_have_logits() -> None:
    whole = estimate(FACTS, ADAPTER, SHAPE, None).logits
    assert whole == LOGITS_COPIES * 200 * 1000 * 4
    assert estimate(FACTS, ADAPTER, replace(SHAPE, supervised_share=0.25), None).logits == whole / 4


def test_logits_never_exceed_a_tile() -> None:
    facts = replace(FACTS, vocabulary=10**7)
    assert estimate(facts, ADAPTER, SHAPE, None).logits == LOGITS_COPIES * LOGITS_WHOLE_BYTES


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f avx512_vnni\n", False),
        ("Features\t: fp asimd bf16\n", True),
        ("model name: bf16 in a name only\n", False),
    ],
)
def test_bf16_is_native_where_the_kernel_says_so(tmp_path: Path, text: str, want: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert multiplies_bf16(tmp_path / "cpuinfo") is want


@pytest.mark.parametrize(
    ("mapped", "want"),
    [
        ("7f0-7f1 r-xp 00000000 08:01 1 /usr/lib/x86_64-linux-gnu/libc.so.6\n", True),
        ("7f0-7f1 r-xp 00000000 08:01 1 /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4.5.10\n", False),
        ("7f0-7f1 r-xp 00000000 08:01 1 /usr/lib/aarch64-linux-gnu/libjemalloc.so.2\n", False),
    ],
)
def test_the_allocator_is_the_one_that_is_mapped(tmp_path: Path, mapped: str, want: bool) -> None:
    (tmp_path / "maps").write_text(mapped)
    assert leaves_holes(tmp_path / "maps") is want
