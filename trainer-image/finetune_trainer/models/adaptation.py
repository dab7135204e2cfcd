"""What a method means for a model before anything is loaded: defaults, by names and widths. Pure."""

from finetune_api.spec import MethodSpec, Quantization
from finetune_trainer.models.inspection import LinearLayer, ModelFacts

KEYS_AND_VALUES = ("k_proj", "v_proj", "qkv_proj", "query_key_value")
FEEDFORWARD = ("down_proj", "fc2", "dense_4h_to_h", "w2")
"""Last layer of the MLP, by the names that decoders give it. IA3 scales what goes into it, and what comes out of all
other layers."""


def is_feedforward(name: str) -> bool:
    """Whether the layer called `name` (full, or its last part) ends an MLP."""
    return name.rpartition(".")[2] in FEEDFORWARD


def rescaled_layers(facts: ModelFacts) -> list[LinearLayer]:
    """Layers that IA3 adapts by default, as its paper does: keys, values, and the MLP's inner activations."""
    return [layer for layer in facts.linear_layers if layer.name.rpartition(".")[2] in (*KEYS_AND_VALUES, *FEEDFORWARD)]


def quantization_of(method: MethodSpec) -> Quantization | None:
    """How the base is quantized in training: as asked, else 4-bit NF4 with double quantization; None without QLoRA."""
    return (method.quantization or Quantization()) if method.type == "qlora" else None
