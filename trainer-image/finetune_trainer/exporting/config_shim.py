"""Adapts a transformers 5 configuration to what the ONNX model builder 0.18 reads.

Without it the builder stops, or writes a graph that is wrong beyond the sliding window. Changes a configuration in
memory only. Pure.
"""

from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"


def adapt(config: Any) -> None:  # noqa: ANN401 - any model's configuration class
    """Change `config` in place; a family that needs nothing stays as it is."""
    _flatten_rope_per_layer_type(config)
    _name_longrope(config)
    _spell_out_sliding_layers(config)


def _flatten_rope_per_layer_type(config: Any) -> None:  # noqa: ANN401
    """Gemma 3 keeps one set of rotary parameters for each type of layer; the builder reads one and a local base."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or FULL not in rope:
        return
    if SLIDING in rope:
        config.rope_local_base_freq = rope[SLIDING]["rope_theta"]
    config.rope_theta = rope[FULL]["rope_theta"]
    config.rope_parameters = dict(rope[FULL])


def _name_longrope(config: Any) -> None:  # noqa: ANN401
    """Configurations written by transformers 5 say `rope_type`; the builder reads `type`."""
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("rope_type") == "longrope":
        rope.setdefault("type", "longrope")


def _spell_out_sliding_layers(config: Any) -> None:  # noqa: ANN401
    """Phi-3 and Mistral have one window for all layers; the builder wants the type of each layer."""
    window = getattr(config, "sliding_window", None)
    if not window or getattr(config, "layer_types", None):
        return
    if window < config.max_position_embeddings:
        config.layer_types = [SLIDING] * config.num_hidden_layers
    else:
        config.sliding_window = None
