"""How much memory training takes, before anything is loaded. Pure arithmetic over shapes.

    weights      base in its number format (full tuning: fp32, and autocast's copy), adapter and modulesToSave in fp32
    gradients    4 bytes for each trained parameter
    optimizer    8 bytes for each trained parameter (two fp32 moments of AdamW)
    activations  what the backward pass needs, per token of a micro batch; see `activation_bytes`
    logits       logits of the supervised positions in fp32, with log-softmax and gradient; at most
                 LOGITS_WHOLE_BYTES at once, because beyond it the head is computed in tiles
    runtime      interpreter, PyTorch, transformers, TRL, PEFT and the allocator's slack

tests/trainer/test_memory_estimate.py holds the error against measured peaks. Must not look at the machine.
"""

from dataclasses import dataclass
from typing import Literal

from finetune_api.status import MemoryPlan
from finetune_trainer.models.inspection import LinearLayer, ModelFacts

Precision = Literal["bf16", "fp16", "fp32"]

BYTES: dict[Precision, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
FLOAT32 = 4
ADAM_BYTES = 8
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
class Adapter:
    """A LoRA adapter: its rank, the layers it sits on, and parameters of modules that are trained whole beside it."""

    rank: int
    layers: tuple[LinearLayer, ...]
    dropout: float
    saved_elements: int = 0

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        low_rank = sum(self.rank * (layer.inputs + layer.outputs) for layer in self.layers)
        return low_rank + self.saved_elements


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


def estimate(facts: ModelFacts, adapter: Adapter | None, shape: TrainingShape, limit: int | None) -> MemoryPlan:
    """The estimate per part, in bytes; `adapter` is None for full tuning."""
    trained = facts.parameters if adapter is None else adapter.parameters
    base_bytes = _weight_bytes(adapter, shape.precision)
    parts = {
        "weights": facts.parameters * base_bytes + (adapter.parameters * FLOAT32 if adapter else 0),
        "gradients": trained * FLOAT32,
        "optimizer": trained * ADAM_BYTES,
        "activations": activation_bytes(facts, adapter, shape),
        "logits": logits_bytes(facts, shape),
        "runtime": RUNTIME_ACCELERATOR_BYTES if shape.on_accelerator else RUNTIME_CPU_BYTES,
    }
    return MemoryPlan(**parts, estimated_bytes=sum(parts.values()), limit_bytes=limit)


def _weight_bytes(adapter: Adapter | None, precision: Precision) -> int:
    """Of one base parameter: a frozen base as it computes; for full tuning fp32, and the copy that autocast makes."""
    if adapter is not None:
        return BYTES[precision]
    return FLOAT32 if precision == "fp32" else FLOAT32 + BYTES[precision]


def activation_bytes(facts: ModelFacts, adapter: Adapter | None, shape: TrainingShape) -> int:
    """Bytes kept from forward to backward.

    A layer keeps, per token: the inputs and outputs of its norms and its residual stream (6 hidden states, and the
    norms' inputs in fp32), queries, keys and values before and after the rotation, attention's output, and four
    intermediates of the gated MLP. Each adapted linear layer keeps its input in fp32, with a mask where there is
    dropout, and its low-rank product. With checkpointing only each layer's input stays, and RECOMPUTED_LAYERS are
    held whole.
    """
    item = BYTES[shape.precision]
    tokens = shape.micro_batch * shape.length
    attention = 2 * facts.query_width + 4 * facts.key_value_width + 2 * facts.query_width
    per_layer = item * (6 * facts.hidden_size + attention + 4 * facts.intermediate_size)
    per_layer += 2 * FLOAT32 * facts.hidden_size
    per_layer += _adapter_bytes(adapter) // max(1, facts.layers)
    per_layer *= tokens
    if shape.quadratic_attention:
        per_layer += shape.micro_batch * facts.heads * shape.length**2 * (item + FLOAT32)
    if shape.checkpointing:
        return facts.layers * tokens * facts.hidden_size * item + min(facts.layers, RECOMPUTED_LAYERS) * per_layer
    return facts.layers * per_layer


def _adapter_bytes(adapter: Adapter | None) -> int:
    """Per token, over all layers."""
    if adapter is None:
        return 0
    copies = 2 if adapter.dropout else 1
    mask = 1 if adapter.dropout else 0
    widths = sum((copies * FLOAT32 + mask) * layer.inputs for layer in adapter.layers)
    return widths + FLOAT32 * adapter.rank * len(adapter.layers)


def logits_bytes(facts: ModelFacts, shape: TrainingShape) -> int:
    """Bytes of the logits and what is computed from them."""
    positions = max(1, round(shape.micro_batch * shape.length * shape.supervised_share))
    return LOGITS_COPIES * min(positions * facts.vocabulary * FLOAT32, LOGITS_WHOLE_BYTES)


def described(plan: MemoryPlan) -> str:
    """The parts, largest first, as in `weights 2.1 GiB, activations 800 MiB`."""
    parts = {name: getattr(plan, name) for name in PARTS}
    return ", ".join(f"{name} {human(size)}" for name, size in sorted(parts.items(), key=lambda part: -part[1]))


PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "runtime")


def human(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
