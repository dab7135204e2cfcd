"""How much memory training takes, before anything is loaded. Pure arithmetic over shapes.

    weights      base in its number format (quantized: with its constants; full tuning: fp32, and autocast's copy),
                 adapter and modulesToSave in fp32
    gradients    4 bytes for each trained parameter
    optimizer    its state for each trained tensor; see `optimizer_bytes`
    activations  what the backward pass needs, per token of a micro batch; see `activation_bytes`
    logits       logits of the supervised positions in fp32, with log-softmax and gradient; at most
                 LOGITS_WHOLE_BYTES at once, because beyond it the head is computed in tiles
    runtime      interpreter, PyTorch, transformers, TRL, PEFT and the allocator's slack

tests/trainer/test_memory_estimate.py holds the error against measured peaks of every method. Must not look at the
machine.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from finetune_api.status import MemoryPlan
from finetune_trainer.models.adaptation import is_feedforward
from finetune_trainer.models.inspection import LinearLayer, ModelFacts

Precision = Literal["bf16", "fp16", "fp32"]
AdapterKind = Literal["lora", "dora", "ia3"]
Shape = tuple[int, int]

BYTES: dict[Precision, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
FLOAT32 = 4
DORA_MATRICES = 3
"""The identity through A and B, its sum with the weight, and what the norm makes of it."""
WEIGHTS_PER_BLOCK, CONSTANTS_PER_BLOCK = 64, 256
"""bitsandbytes: 4-bit weights that share a constant, and constants that share one of their own."""
STATES_PER_BLOCK = 256
SMALLEST_8BIT_STATE = 4096
"""bitsandbytes: 8-bit moments that share a scale, and elements below which a tensor's moments stay in fp32."""
LOGITS_COPIES = 3
"""Logits, their log-softmax and their gradient live at the same time."""
LOGITS_WHOLE_BYTES = 512 * 2**20
"""Most bytes of fp32 logits made at once (training/loss.py)."""
RECOMPUTED_LAYERS = 3
"""Layers held whole while activations are recomputed: the layer, its gradients, and what the allocator has not given
back of the one before."""
RUNTIME_CPU_BYTES = 560 * 2**20
RUNTIME_ACCELERATOR_BYTES = 1536 * 2**20
"""CUDA context, cuBLAS workspaces and allocator slack."""


@dataclass(frozen=True)
class QuantizedBase:
    """What of a frozen base is quantized: number of weights, bits of each, and whether the constants are, too."""

    elements: int
    bits: int
    double_quant: bool

    @property
    def bytes(self) -> int:
        """Bytes of the quantized weights with their constants (absolute maxima of blocks, or scales of rows)."""
        if self.bits == 8:
            return self.elements
        constants = 1 + FLOAT32 / CONSTANTS_PER_BLOCK if self.double_quant else FLOAT32
        return round(self.elements * (0.5 + constants / WEIGHTS_PER_BLOCK))


@dataclass(frozen=True)
class Adapter:
    """What is trained beside a frozen base: kind, rank, layers it sits on, and parameters of modules trained whole."""

    rank: int
    layers: tuple[LinearLayer, ...]
    dropout: float
    saved_elements: int = 0
    kind: AdapterKind = "lora"
    base: QuantizedBase | None = None
    """How the base is quantized; None when it is not."""

    @property
    def shapes(self) -> list[Shape]:
        """Of every trained tensor."""
        per_layer = [shape for layer in self.layers for shape in _SHAPES[self.kind](self.rank, layer)]
        return [*per_layer, (self.saved_elements, 1)] if self.saved_elements else per_layer

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(rows * columns for rows, columns in self.shapes)


def _low_rank(rank: int, layer: LinearLayer) -> list[Shape]:
    return [(rank, layer.inputs), (layer.outputs, rank)]


def _factors(_rank: int, layer: LinearLayer) -> list[Shape]:
    return [(layer.inputs if is_feedforward(layer.name) else layer.outputs, 1)]


_SHAPES: dict[AdapterKind, Callable[[int, LinearLayer], list[Shape]]] = {
    "lora": _low_rank,
    "dora": lambda rank, layer: [*_low_rank(rank, layer), (layer.outputs, 1)],
    "ia3": _factors,
}


@dataclass(frozen=True)
class TrainingShape:
    """What one forward pass of training looks like."""

    precision: Precision
    micro_batch: int
    length: int
    """Tokens of the longest row of a batch."""
    supervised_share: float
    """Largest part of the tokens that carries loss, from 0 to 1."""
    checkpointing: bool
    on_accelerator: bool
    quadratic_attention: bool = False
    """Whether attention keeps its whole score matrix (eager)."""
    optimizer: str = "adamw"
    whole_logits: bool = False
    """Whether the loss needs the logits of all supervised positions at once."""
    classes: int = 0
    """Logits of a position that tells a class; 0 for a language model, which has one for each word."""
    sequences: int = 1
    """Sequences of a row: 2 for a pair of answers."""

    @property
    def tokens(self) -> int:
        """Tokens of a micro batch, with padding."""
        return self.micro_batch * self.sequences * self.length


def estimate(facts: ModelFacts, adapter: Adapter | None, shape: TrainingShape, limit: int | None) -> MemoryPlan:
    """The estimate per part, in bytes; `adapter` is None for full tuning."""
    trained = facts.parameters if adapter is None else adapter.parameters
    parts = {
        "weights": weight_bytes(facts, adapter, shape.precision),
        "gradients": trained * FLOAT32,
        "optimizer": optimizer_bytes(shape.optimizer, adapter.shapes if adapter else _all_shapes(facts)),
        "activations": activation_bytes(facts, adapter, shape),
        "logits": logits_bytes(facts, shape),
        "runtime": RUNTIME_ACCELERATOR_BYTES if shape.on_accelerator else RUNTIME_CPU_BYTES,
    }
    return MemoryPlan(**parts, estimated_bytes=sum(parts.values()), limit_bytes=limit)


def weight_bytes(facts: ModelFacts, adapter: Adapter | None, precision: Precision) -> int:
    """Bytes of the weights: a frozen base as it computes, or quantized; for full tuning fp32, and autocast's copy."""
    if adapter is None:
        return facts.parameters * (FLOAT32 if precision == "fp32" else FLOAT32 + BYTES[precision])
    quantized = adapter.base.elements if adapter.base else 0
    base = (facts.parameters - quantized) * BYTES[precision] + (adapter.base.bytes if adapter.base else 0)
    return base + adapter.parameters * FLOAT32


def optimizer_bytes(optimizer: str, shapes: Iterable[Shape]) -> int:
    """Bytes that `optimizer` (as in the spec) keeps for trained tensors of `shapes`."""
    return sum(_STATES[optimizer](rows, columns) for rows, columns in shapes)


def _adamw_state(rows: int, columns: int) -> int:
    return 2 * FLOAT32 * rows * columns


def _adamw_8bit_state(rows: int, columns: int) -> int:
    elements = rows * columns
    if elements < SMALLEST_8BIT_STATE:
        return _adamw_state(rows, columns)
    return 2 * elements + 2 * FLOAT32 * -(-elements // STATES_PER_BLOCK)


def _adafactor_state(rows: int, columns: int) -> int:
    """Second moments by row and by column; of a vector, of each element."""
    return FLOAT32 * (rows + columns if min(rows, columns) > 1 else rows * columns)


_STATES: dict[str, Callable[[int, int], int]] = {
    "adamw": _adamw_state,
    "adamw-8bit": _adamw_8bit_state,
    "paged-adamw-8bit": _adamw_8bit_state,
    "adafactor": _adafactor_state,
    "sgd": lambda _rows, _columns: 0,
}


def _all_shapes(facts: ModelFacts) -> list[Shape]:
    """Of every tensor of the model: linear layers, embeddings, and the rest as one vector."""
    linear = [(layer.outputs, layer.inputs) for layer in facts.linear_layers]
    rest = facts.parameters - sum(rows * columns for rows, columns in linear)
    embeddings, vectors = divmod(max(0, rest), facts.vocabulary * facts.hidden_size)
    return [*linear, *[(facts.vocabulary, facts.hidden_size)] * embeddings, (vectors, 1)]


def activation_bytes(facts: ModelFacts, adapter: Adapter | None, shape: TrainingShape) -> int:
    """Bytes kept from forward to backward.

    A layer keeps, per token: the inputs and outputs of its norms and its residual stream (6 hidden states, and the
    norms' inputs in fp32), queries, keys and values before and after the rotation, attention's output, and four
    intermediates of the gated MLP. Each adapted linear layer keeps its input in fp32, with a mask where there is
    dropout, and its low-rank product. With checkpointing only each layer's input stays, and RECOMPUTED_LAYERS are
    held whole.
    """
    item = BYTES[shape.precision]
    tokens = shape.tokens
    attention = 2 * facts.query_width + 4 * facts.key_value_width + 2 * facts.query_width
    per_layer = item * (6 * facts.hidden_size + attention + 4 * facts.intermediate_size)
    per_layer += 2 * FLOAT32 * facts.hidden_size
    per_layer += _adapter_bytes(adapter, item) // max(1, facts.layers)
    per_layer *= tokens
    if shape.quadratic_attention:
        per_layer += tokens * facts.heads * shape.length * (item + FLOAT32)
    whole = _whole_weight_bytes(adapter, shape.precision)
    if shape.checkpointing:
        kept = facts.layers * tokens * facts.hidden_size * item
        return kept + min(facts.layers, RECOMPUTED_LAYERS) * per_layer + whole
    return facts.layers * per_layer + whole


def _whole_weight_bytes(adapter: Adapter | None, precision: Precision) -> int:
    """Matrices of the size of the widest adapted layer that a forward or backward pass makes and lets go.

    QLoRA computes with one weight at a time, in the format of the computation; DoRA makes the update as a matrix,
    adds it to the weight and takes the norms, in fp32.
    """
    if adapter is None:
        return 0
    widest = max(layer.inputs * layer.outputs for layer in adapter.layers)
    quantized = widest * BYTES[precision] if adapter.base else 0
    return quantized + (DORA_MATRICES * widest * FLOAT32 if adapter.kind == "dora" else 0)


def _adapter_bytes(adapter: Adapter | None, item: int) -> int:
    """Per token, over all layers. DoRA keeps, for its magnitudes, what the base and the update each give; IA3 keeps
    what it scales, and the product in fp32."""
    if adapter is None:
        return 0
    if adapter.kind == "ia3":
        return sum((item + FLOAT32) * rows for rows, _ in adapter.shapes if rows != adapter.saved_elements)
    magnitudes = 2 * FLOAT32 * sum(layer.outputs for layer in adapter.layers) if adapter.kind == "dora" else 0
    copies = 2 if adapter.dropout else 1
    mask = 1 if adapter.dropout else 0
    widths = sum((copies * FLOAT32 + mask) * layer.inputs for layer in adapter.layers)
    return widths + magnitudes + FLOAT32 * adapter.rank * len(adapter.layers)


def logits_bytes(facts: ModelFacts, shape: TrainingShape) -> int:
    """Bytes of the logits and what is computed from them."""
    positions = max(1, round(shape.tokens * shape.supervised_share))
    whole = positions * (shape.classes or facts.vocabulary) * FLOAT32
    return LOGITS_COPIES * (whole if shape.whole_logits else min(whole, LOGITS_WHOLE_BYTES))


def described(plan: MemoryPlan) -> str:
    """The parts, largest first, as in `weights 2.1 GiB, activations 800 MiB`."""
    parts = {name: getattr(plan, name) for name in PARTS}
    return ", ".join(f"{name} {human(size)}" for name, size in sorted(parts.items(), key=lambda part: -part[1]))


PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "runtime")


def human(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
