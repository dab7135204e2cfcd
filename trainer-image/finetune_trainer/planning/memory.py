"""How much memory training takes, before anything is loaded. Pure arithmetic over shapes.

    weights      base in its number format (quantized: with its constants); what is trained in fp32, with autocast's
                 copy
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
RECOMPUTED_LAYERS = 2
"""Layers held whole while activations are recomputed: the layer, and what the allocator has not given back of the one
before."""
MASK = 1
"""Of an element that dropout may take away: a boolean."""
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
    leaves_holes: bool = True
    """Whether a CPU's memory allocator seldom fills the holes between blocks that are kept, as glibc's."""

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
    """Bytes of the weights: a frozen base as it computes, or quantized; what is trained in fp32, autocast's copy."""
    if adapter is None:
        return facts.parameters * (FLOAT32 if precision == "fp32" else FLOAT32 + BYTES[precision])
    quantized = adapter.base.elements if adapter.base else 0
    base = (facts.parameters - quantized) * BYTES[precision] + (adapter.base.bytes if adapter.base else 0)
    copied = 0 if precision == "fp32" else BYTES[precision]
    return base + adapter.parameters * (FLOAT32 + copied)


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
    """Bytes kept from forward to backward, and on a CPU the holes between them.

    All of each layer is kept, or with checkpointing each layer's input and RECOMPUTED_LAYERS whole; and as much as one
    layer for the gradients on their way through it. Every layer leaves its holes, recomputed or not.
    """
    one = kept_bytes(facts, adapter, shape)
    whole = min(facts.layers, RECOMPUTED_LAYERS) if shape.checkpointing else facts.layers
    inputs = facts.layers * shape.tokens * facts.hidden_size * BYTES[shape.precision] if shape.checkpointing else 0
    held = inputs + (whole + 1) * one + facts.layers * _hole_bytes(facts, adapter, shape)
    return held + _whole_weight_bytes(adapter, shape.precision)


def _hole_bytes(facts: ModelFacts, adapter: Adapter | None, shape: TrainingShape) -> int:
    """Bytes of one layer that are free but stay in glibc's heap.

    PyTorch asks for aligned blocks, and later ones seldom fit the holes that passing results left between kept ones:
    of an adapted layer the base's result, B's product, and that scaled. An accelerator has an allocator of PyTorch's
    own; tcmalloc keeps blocks of a size together.
    """
    if shape.on_accelerator or not shape.leaves_holes or adapter is None or adapter.kind == "ia3":
        return 0
    widths = sum(layer.outputs for layer in adapter.layers) // max(1, facts.layers)
    return (BYTES[shape.precision] + 2 * FLOAT32) * widths * shape.tokens


def kept_bytes(facts: ModelFacts, adapter: Adapter | None, shape: TrainingShape) -> int:
    """Bytes that the backward pass needs of one layer, for a micro batch.

    Per token: the two residual streams in fp32; queries after the rotation, keys and values repeated to as many heads,
    and what attention gives; three intermediates of the gated MLP; what is kept for the sake of what is trained. Where
    rows are padded, sdpa makes numbers of the mask in every layer.

    tests/trainer/test_kept_activations.py compares this with the tensors that autograd saves.
    """
    item, tokens = BYTES[shape.precision], shape.tokens
    per_token = 2 * FLOAT32 * facts.hidden_size + item * (4 * facts.query_width + 3 * facts.intermediate_size)
    per_token += _kept_of_weights(facts, shape) if adapter is None else _kept_of_adapter(facts, adapter, shape)
    if shape.micro_batch * shape.sequences > 1:
        per_token += shape.length * item
    if shape.quadratic_attention:
        per_token += facts.heads * shape.length * (item + FLOAT32)
    return tokens * per_token + _copied_weights(facts, adapter, shape)


def _kept_of_weights(facts: ModelFacts, shape: TrainingShape) -> int:
    """Bytes per token that a layer trained whole keeps besides: normalized streams in fp32 and its inputs.

    In fp32 layers with the same input share it; autocast makes a copy for each, but of what attention gave in its
    format.
    """
    item, shared = BYTES[shape.precision], _shared_inputs(facts)
    each = sum(layer.inputs for layer in facts.linear_layers) // max(1, facts.layers) - facts.query_width
    return 2 * FLOAT32 * facts.hidden_size + item * (shared if item == FLOAT32 else max(shared, each))


def _kept_of_adapter(facts: ModelFacts, adapter: Adapter, shape: TrainingShape) -> int:
    """Bytes per token that a layer keeps for its adapter, on average over the layers."""
    of_all = _kept_of_factors(adapter, shape) if adapter.kind == "ia3" else _kept_of_update(facts, adapter, shape)
    return of_all // max(1, facts.layers)


def _kept_of_factors(adapter: Adapter, shape: TrainingShape) -> int:
    """Bytes per token, of all layers, that IA3 scales: results as they are, inputs in fp32."""
    item = BYTES[shape.precision]
    return sum(FLOAT32 * one.inputs if is_feedforward(one.name) else item * one.outputs for one in adapter.layers)


def _kept_of_update(facts: ModelFacts, adapter: Adapter, shape: TrainingShape) -> int:
    """Bytes per token, of all layers, that low-rank updates keep: inputs and products with A, on a CPU in fp32.

    In fp32 layers with the same input share it, in a shorter format each has a copy, and dropout gives each an input of
    its own and a mask. DoRA's magnitudes keep the update's result and the base's, which dropout makes it compute anew.
    """
    item = BYTES[shape.precision]
    computed = item if shape.on_accelerator else FLOAT32
    inputs, outputs = (sum(sizes) for sizes in zip(*((one.inputs, one.outputs) for one in adapter.layers), strict=True))
    if item == FLOAT32 and not adapter.dropout:
        inputs = min(inputs, facts.layers * _shared_inputs(facts))
    kept = (computed + MASK * bool(adapter.dropout)) * inputs + computed * adapter.rank * len(adapter.layers)
    if adapter.kind == "dora":
        kept += (computed + (computed if adapter.dropout else item)) * outputs
    return kept


def _shared_inputs(facts: ModelFacts) -> int:
    """Elements that the linear layers of one layer read, each once, but for what attention gives."""
    return 2 * facts.hidden_size + facts.intermediate_size


def _copied_weights(facts: ModelFacts, adapter: Adapter | None, shape: TrainingShape) -> int:
    """Bytes of fp32 copies of a layer's weights in another format: with dropout DoRA computes with them."""
    if adapter is None or adapter.kind != "dora" or not adapter.dropout:
        return 0
    if shape.on_accelerator or shape.precision == "fp32":
        return 0
    return FLOAT32 * sum(one.inputs * one.outputs for one in adapter.layers) // max(1, facts.layers)


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
