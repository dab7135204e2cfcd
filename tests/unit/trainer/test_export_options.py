"""What reaches the ONNX model builder."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen3Config

from finetune_trainer.exporting.config_shim import adapt
from finetune_trainer.exporting.onnx_options import PRECISIONS, builder_options

# The builder accepts any name without a word, so a misspelt one would only show as a worse model.
KNOWN = {"windowed_kv_cache", "hf_token", "algo_config", "matmul_mixed_precision", "block_size"}


def test_only_measured_options_reach_the_builder() -> None:
    for precision in PRECISIONS:
        assert {option.partition("=")[0] for option in builder_options(precision, 10**8)} <= KNOWN


def test_int4_keeps_sensitive_layers_in_int8_and_the_cache_is_never_windowed() -> None:
    assert "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8" in builder_options("int4", 8 * 10**9)
    assert all("windowed_kv_cache=false" in builder_options(precision, 8 * 10**9) for precision in PRECISIONS)


@pytest.mark.parametrize(
    ("precision", "parameters", "want"),
    [("int4", 135_000_000, True), ("int4", 8_000_000_000, False), ("int8", 135_000_000, False)],
)
def test_int4_of_a_small_model_has_more_scales(precision: str, parameters: int, want: bool) -> None:
    assert ("block_size=16" in builder_options(precision, parameters)) is want


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(KeyError):
        builder_options("fp16", 1)


def test_rotary_parameters_per_layer_type_become_one_set_and_a_local_base() -> None:
    config = Gemma3TextConfig(num_hidden_layers=2)
    want = {kind: config.rope_parameters[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")}
    adapt(config)
    assert config.rope_parameters["rope_type"] == "default"
    assert (config.rope_theta, config.rope_local_base_freq) == (want["full_attention"], want["sliding_attention"])


def test_longrope_is_named_as_the_builder_reads_it() -> None:
    config = SimpleNamespace(rope_parameters={"rope_type": "longrope"}, sliding_window=None)
    adapt(config)
    assert config.rope_parameters["type"] == "longrope"


@pytest.mark.parametrize(
    ("window", "want_layers", "want_window"),
    [(64, ["sliding_attention"] * 2, 64), (4096, None, None), (None, None, None)],
)
@pytest.mark.parametrize("kind", [Phi3Config, MistralConfig])
def test_one_window_for_all_layers_is_spelt_out_or_dropped_when_it_covers_the_context(
    kind: Any, window: int | None, want_layers: list[str] | None, want_window: int | None
) -> None:
    config = kind(num_hidden_layers=2, sliding_window=window, max_position_embeddings=4096)
    adapt(config)
    assert getattr(config, "layer_types", None) == want_layers
    assert config.sliding_window == want_window


@pytest.mark.parametrize("config", [LlamaConfig(), Qwen3Config()])
def test_a_family_that_needs_nothing_stays_as_it_is(config: Any) -> None:
    before = config.to_dict()
    adapt(config)
    assert config.to_dict() == before
