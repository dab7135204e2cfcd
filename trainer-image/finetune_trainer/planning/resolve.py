"""Every `auto` of the spec -> the plan. Pure: facts in, decisions out, each with its reason beside it.

Must not look at the machine, at files or at the clock: the same facts give the same plan.
"""

from collections.abc import Sequence
from dataclasses import replace

from finetune_api.prices import accelerators, price
from finetune_api.spec import FineTuneJobSpec, MethodSpec
from finetune_api.status import MemoryPlan, Plan, PlannedMethod, PlannedModel, PlannedTraining
from finetune_trainer.data.parts import BLOCK
from finetune_trainer.errors import InsufficientMemoryError, InvalidSpecError
from finetune_trainer.models.adaptation import quantization_of, rescaled_layers
from finetune_trainer.models.inspection import LinearLayer, ModelFacts, adapted_layers
from finetune_trainer.planning.deliverables import exports_of, metrics_of
from finetune_trainer.planning.duration import training_seconds, workload
from finetune_trainer.planning.facts import DataFacts, Machine, ModelOrigin
from finetune_trainer.planning.memory import (
    Adapter,
    AdapterKind,
    Precision,
    QuantizedBase,
    TrainingShape,
    described,
    estimate,
    human,
    weight_bytes,
)
from finetune_trainer.planning.objectives import learning_rates, sequences_of_a_row, smallest_batch
from finetune_trainer.planning.packing import packed_count
from finetune_trainer.planning.schedule import Schedule, require_watchable, scheduled

SMALL, LARGE = 500_000_000, 3_000_000_000
KINDS: dict[str, AdapterKind] = {"lora": "lora", "qlora": "lora", "dora": "dora", "adapter": "ia3"}
LARGEST_BATCH = 16
STEPS_PER_EPOCH = 20
"""Steps per epoch that a small dataset should still get."""
MICRO_TOKENS = {False: 1024, True: 16384}
"""Tokens of a micro batch on CPU, and on an accelerator: beyond, a larger one is hardly faster."""
LARGEST_MICRO_BATCH = {False: 8, True: 32}
EVALUATION_BYTES = 512 * 2**20
"""Logits and activations of an evaluation, which is done in small pieces."""
CHECKPOINTING_FROM = 3_000_000_000
"""Parameters from which activations are recomputed on an accelerator, whose memory is not known here."""


def resolve(spec: FineTuneJobSpec, origin: ModelOrigin, facts: ModelFacts, data: DataFacts, machine: Machine) -> Plan:
    """The plan of a job. Raises InvalidSpecError or InsufficientMemoryError."""
    adapter = adapter_of(spec, facts)
    length = max_length(spec, data, facts)
    packing = packs(spec)
    sequences = packed_count(data.lengths, length) if packing else len(data.lengths)
    batch = _batch_size(spec, sequences)
    longest = length if packing else min(length, max(data.lengths))
    shape, memory = _fitting(spec, facts, adapter, data, machine, longest, batch)
    _require_room_to_evaluate(facts, adapter, data, shape, memory)
    batch = _whole(spec, batch, shape.micro_batch)
    schedule = scheduled(spec.training, sequences, batch, data.report.eval_rows)
    require_watchable(spec.training, schedule.eval_every)
    training = _training(spec, facts, data, shape, schedule, batch=batch, length=length, packing=packing)
    seconds = _seconds(facts, adapter, training, data, machine)
    return Plan(
        model=_model(origin, facts, adapter),
        method=_method(spec, adapter, origin),
        training=training,
        strategy="none",
        metrics=metrics_of(spec, data),
        exports=exports_of(spec),
        memory=memory,
        estimated_seconds=seconds,
        estimated_cost=price(spec, accelerators(spec) * seconds) if seconds is not None else "",
    )


def _seconds(
    facts: ModelFacts, adapter: Adapter | None, training: PlannedTraining, data: DataFacts, machine: Machine
) -> int | None:
    """Estimated seconds of stage train; None where the speed of the machine is not known."""
    speed = machine.speed.get(training.precision)
    if speed is None:
        return None
    work = workload(training, data.lengths, data.report.eval_rows, data.supervised_share)
    return training_seconds(facts, adapter, training, work, speed)


def adapter_of(spec: FineTuneJobSpec, facts: ModelFacts) -> Adapter | None:
    """The adapter that is trained; None for full tuning. Raises InvalidSpecError for modules that are not there."""
    method = spec.method
    if method.type == "full":
        if method.target_modules != "auto":  # the API server leaves its type open and cannot judge it
            raise InvalidSpecError("method.targetModules belongs to an adapter; with type: full remove it")
        return None
    rescales = method.type == "adapter"
    by_default = rescales and method.target_modules == "auto"
    layers = rescaled_layers(facts) if by_default else adapted_layers(facts, method.target_modules)
    if not layers:
        ways = "name method.targetModules" if by_default and facts.linear_layers else "use full"
        raise InvalidSpecError(f"method.type: {method.type} finds no layer to adapt in {facts.architecture}; {ways}")
    _require_rank(method, layers)
    return Adapter(
        kind=KINDS[method.type],
        rank=0 if rescales else method.rank,
        layers=tuple(layers),
        dropout=0.0 if rescales else method.dropout,
        saved_elements=_saved_elements(_whole_modules(method, facts), facts),
        base=_quantized_base(method, facts),
    )


def _require_rank(method: MethodSpec, layers: Sequence[LinearLayer]) -> None:
    """A decomposition has no more directions than its smaller side."""
    narrowest = min(layers, key=lambda layer: min(layer.inputs, layer.outputs))
    width = min(narrowest.inputs, narrowest.outputs)
    if method.initialization != "default" and method.rank > width:
        raise InvalidSpecError(
            f"method.rank: {method.rank} is more than the {width} channels of {narrowest.name}, which "
            f"method.initialization: {method.initialization} decomposes; set rank to {width} or less"
        )


def _quantized_base(method: MethodSpec, facts: ModelFacts) -> QuantizedBase | None:
    quantization = quantization_of(method)
    if quantization is None:
        return None
    layers = [layer for layer in facts.linear_layers if not _is_saved(layer.name, method.modules_to_save)]
    elements = sum(layer.inputs * layer.outputs for layer in layers)
    return QuantizedBase(elements, quantization.bits, quantization.double_quant)


def _is_saved(name: str, modules: Sequence[str]) -> bool:
    return any(part in modules for part in name.split("."))


def _whole_modules(method: MethodSpec, facts: ModelFacts) -> list[str]:
    """Modules that are trained whole: as asked, and a head of classes."""
    return [*dict.fromkeys([*([facts.head] if facts.head else []), *method.modules_to_save])]


def _saved_elements(modules: Sequence[str], facts: ModelFacts) -> int:
    total = 0
    for module in modules:
        sizes = [size for name, size in facts.module_elements.items() if name.rpartition(".")[2] == module]
        if not sizes:
            ends = sorted({name.rpartition(".")[2] for name in facts.module_elements if not name[-1:].isdigit()})
            raise InvalidSpecError(
                f"method.modulesToSave: {facts.architecture} has no module {module!r}; it has {', '.join(ends[:16])}"
            )
        total += sum(sizes)
    return total


def max_length(spec: FineTuneJobSpec, data: DataFacts, facts: ModelFacts) -> int:
    """Longest sequence in tokens: as asked, else the longest row rounded up to at most the context.

    Pretraining puts texts together, to the longest sequences that leave a small corpus enough steps.
    """
    asked = spec.dataset.max_length
    if isinstance(asked, int):
        return asked
    longest = max(data.lengths)
    if spec.training.objective == "pretrain" and packs(spec):
        longest = max(longest, min(BLOCK, sum(data.lengths) // STEPS_PER_EPOCH))
    step = 64 if longest > 512 else 8
    return min(facts.context_length, -(-longest // step) * step)


def packs(spec: FineTuneJobSpec) -> bool:
    """Whether rows share sequences: as asked; texts do, which are of any length."""
    asked = spec.dataset.packing
    return spec.training.objective == "pretrain" if asked == "auto" else asked


def learning_rate(spec: FineTuneJobSpec, facts: ModelFacts) -> float:
    """Peak learning rate: as asked, else by objective, method and size."""
    asked = spec.training.learning_rate
    if not isinstance(asked, str):
        return asked
    small, middle, large = learning_rates(spec.training.objective, spec.method.type)
    return small if facts.parameters < SMALL else middle if facts.parameters < LARGE else large


def precision(spec: FineTuneJobSpec, machine: Machine) -> Precision:
    """Number format: as asked; bf16 on accelerators and on CPUs that multiply it natively, else fp32."""
    asked = spec.training.precision
    if asked == "fp16" and not machine.accelerator:
        raise InvalidSpecError("training.precision: fp16 needs an accelerator; use bf16, fp32 or auto")
    if asked != "auto":
        return asked
    return "bf16" if machine.accelerator or machine.cpu_bf16 else "fp32"


def attention(spec: FineTuneJobSpec, facts: ModelFacts, machine: Machine) -> str:
    """Attention: as asked; sdpa, or eager where the model caps its attention scores, which sdpa cannot."""
    asked = spec.model.attention
    if asked == "flash" and not machine.accelerator:
        raise InvalidSpecError("model.attention: flash needs an accelerator; use sdpa or auto")
    if asked != "auto":
        return asked
    return "eager" if facts.caps_attention else "sdpa"


def _batch_size(spec: FineTuneJobSpec, rows: int) -> int:
    """Rows per step: as asked; else the largest power of two that leaves a small dataset enough steps."""
    asked, micro = spec.training.batch_size, spec.training.micro_batch_size
    if isinstance(asked, int):
        return asked
    batch = LARGEST_BATCH
    while batch > smallest_batch(spec.training.objective) and rows < batch * STEPS_PER_EPOCH:
        batch //= 2
    return max(batch, micro) if isinstance(micro, int) else batch


def _whole(spec: FineTuneJobSpec, batch: int, micro: int) -> int:
    """`batch` as a multiple of `micro`. Raises InvalidSpecError when both are given and do not fit."""
    if batch % micro == 0:
        return batch
    if spec.training.batch_size == "auto":
        return micro * -(-batch // micro)
    raise InvalidSpecError(
        f"training.batchSize: {batch} is not a multiple of training.microBatchSize: {micro}; "
        f"set batchSize to {micro * (batch // micro) or micro} or {micro * (batch // micro + 1)}"
    )


def _micro_batches(spec: FineTuneJobSpec, machine: Machine, longest: int, batch: int) -> list[int]:
    """Sizes to try, largest first: as asked, else divisors of the batch within the token budget, down to one row."""
    asked = spec.training.micro_batch_size
    if isinstance(asked, int):
        return [asked]
    tokens = longest * sequences_of_a_row(spec.training.objective)
    most = min(LARGEST_MICRO_BATCH[machine.accelerator], max(1, MICRO_TOKENS[machine.accelerator] // tokens))
    return [size for size in range(batch, 0, -1) if batch % size == 0 and size <= most]


def _checkpointing(spec: FineTuneJobSpec, facts: ModelFacts, machine: Machine) -> list[bool]:
    """Choices to try: as asked; else none where it fits, because recomputing costs a third more time."""
    asked = spec.training.gradient_checkpointing
    if isinstance(asked, bool):
        return [asked]
    if machine.accelerator:
        return [facts.parameters >= CHECKPOINTING_FROM]
    return [False, True]


def _fitting(
    spec: FineTuneJobSpec,
    facts: ModelFacts,
    adapter: Adapter | None,
    data: DataFacts,
    machine: Machine,
    longest: int,
    batch: int,
) -> tuple[TrainingShape, MemoryPlan]:
    """The first shape for sequences of at most `longest` tokens whose estimate fits.

    Raises InsufficientMemoryError with the parts of the smallest one.
    """
    limit = None if machine.accelerator else machine.memory_limit
    shape = TrainingShape(
        precision=precision(spec, machine),
        micro_batch=1,
        length=longest,
        leaves_holes=machine.leaves_holes,
        supervised_share=data.supervised_share,
        checkpointing=False,
        on_accelerator=machine.accelerator,
        quadratic_attention=attention(spec, facts, machine) == "eager",
        optimizer=spec.training.optimizer,
        whole_logits=spec.training.loss.type != "default",
        classes=len(data.classes),
        sequences=sequences_of_a_row(spec.training.objective),
    )
    tried = [
        replace(shape, micro_batch=micro, checkpointing=checkpointing)
        for checkpointing in _checkpointing(spec, facts, machine)
        for micro in _micro_batches(spec, machine, longest, batch)
    ]
    for candidate in tried:
        memory = estimate(facts, adapter, candidate, limit)
        if limit is None or memory.estimated_bytes <= limit:
            return candidate, memory
    raise InsufficientMemoryError(_too_small(spec, estimate(facts, adapter, tried[-1], limit)))


def _require_room_to_evaluate(
    facts: ModelFacts, adapter: Adapter | None, data: DataFacts, shape: TrainingShape, memory: MemoryPlan
) -> None:
    """What was trained on a quantized base is evaluated on the unquantized one, in a pod of the same size."""
    if adapter is None or adapter.base is None or memory.limit_bytes is None or data.report.eval_rows == 0:
        return
    whole = weight_bytes(facts, replace(adapter, base=None), shape.precision)
    needed = whole + memory.runtime + EVALUATION_BYTES
    if needed > memory.limit_bytes:
        raise InsufficientMemoryError(
            f"training fits, but the adapter is evaluated on the unquantized base, which needs about {human(needed)}, "
            f"and the pod has {human(memory.limit_bytes)}: raise resources.memory to {-(-needed // 2**30)}Gi, or hold "
            "out no rows (dataset.evalFraction: 0 and no dataset.eval)"
        )


def _too_small(spec: FineTuneJobSpec, memory: MemoryPlan) -> str:
    needed, limit = memory.estimated_bytes, memory.limit_bytes or 0
    ways = [f"raise resources.memory to {-(-needed // 2**30)}Gi"]
    if spec.method.type == "full":
        ways.append("use method.type: lora")
    if isinstance(spec.training.micro_batch_size, int) and spec.training.micro_batch_size > 1:
        ways.append("lower training.microBatchSize")
    if spec.training.gradient_checkpointing is False:
        ways.append("allow training.gradientCheckpointing")
    if memory.activations > needed // 4:
        ways.append("lower dataset.maxLength")
    if spec.method.type == "lora":
        ways.append("use method.type: qlora")
    if spec.training.precision == "fp32" and spec.method.type != "full":
        ways.append("use training.precision: bf16")
    return (
        f"training needs about {human(needed)} and the pod has {human(limit)}: {described(memory)}. "
        f"To make it fit: {', or '.join(ways)}"
    )


def _model(origin: ModelOrigin, facts: ModelFacts, adapter: Adapter | None) -> PlannedModel:
    return PlannedModel(
        source=origin.source,
        revision=origin.revision,
        digest=origin.digest,
        architecture=facts.architecture,
        parameters=facts.parameters,
        trainable_parameters=facts.parameters if adapter is None else adapter.parameters,
        context_length=facts.context_length,
    )


def _method(spec: FineTuneJobSpec, adapter: Adapter | None, origin: ModelOrigin) -> PlannedMethod:
    if adapter is None:
        return PlannedMethod(type=spec.method.type)
    targets = spec.method.target_modules
    rescales = spec.method.type == "adapter"
    return PlannedMethod(
        type=spec.method.type,
        rank=None if rescales else spec.method.rank,
        alpha=None if rescales else spec.method.alpha,
        target_modules=targets if isinstance(targets, list) else _names_of(adapter.layers),
        continued_from=spec.method.continue_from.source if spec.method.continue_from else "",
        continued_digest=origin.continued_digest,
    )


def _names_of(layers: Sequence[LinearLayer]) -> list[str]:
    """What auto or a regular expression means, as last parts of names: all full names would not fit into status."""
    return sorted({layer.name.rpartition(".")[2] for layer in layers})


def _training(
    spec: FineTuneJobSpec,
    facts: ModelFacts,
    data: DataFacts,
    shape: TrainingShape,
    schedule: Schedule,
    *,
    batch: int,
    length: int,
    packing: bool,
) -> PlannedTraining:
    return PlannedTraining(
        objective=spec.training.objective,
        total_steps=schedule.total_steps,
        epochs=schedule.epochs,
        batch_size=batch,
        micro_batch_size=shape.micro_batch,
        gradient_accumulation_steps=batch // shape.micro_batch,
        learning_rate=learning_rate(spec, facts),
        warmup_steps=schedule.warmup_steps,
        scheduler=spec.training.scheduler,
        optimizer=spec.training.optimizer,
        max_length=length,
        packing=packing,
        loss_on=data.loss_on,
        precision=shape.precision,
        gradient_checkpointing=shape.checkpointing,
        attention="eager" if shape.quadratic_attention else _named(spec),
        eval_every=schedule.eval_every,
        checkpoint_every=schedule.checkpoint_every,
        log_every=schedule.log_every,
    )


def _named(spec: FineTuneJobSpec) -> str:
    return "sdpa" if spec.model.attention == "auto" else spec.model.attention
