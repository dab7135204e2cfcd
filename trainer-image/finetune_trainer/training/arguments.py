"""Plan and spec -> the arguments of TRL's SFTTrainer.

What the plan has is taken from the plan. What is ours to decide (checkpoints, device, reports) can be set by nobody.
Must not load anything.
"""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from finetune_trainer.errors import InvalidSpecError, NotSupportedError
from finetune_trainer.planning.schedule import STOPPING_METRICS, require_watchable
from finetune_trainer.run import Run

if TYPE_CHECKING:
    from trl import SFTConfig

TYPED = {
    "num_train_epochs": "training.epochs",
    "max_steps": "training.maxSteps",
    "per_device_train_batch_size": "training.microBatchSize",
    "per_device_eval_batch_size": "training.microBatchSize",
    "gradient_accumulation_steps": "training.batchSize",
    "learning_rate": "training.learningRate",
    "lr_scheduler_type": "training.scheduler",
    "warmup_steps": "training.warmupRatio",
    "weight_decay": "training.weightDecay",
    "optim": "training.optimizer",
    "max_grad_norm": "training.maxGradNorm",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "gradient_checkpointing": "training.gradientCheckpointing",
    "activation_checkpointing": "training.gradientCheckpointing",
    "logging_steps": "training.logEvery",
    "eval_steps": "training.evalEvery",
    "save_steps": "training.checkpointEvery",
    "save_total_limit": "training.keepCheckpoints",
    "load_best_model_at_end": "training.loadBest",
    "metric_for_best_model": "training.earlyStopping.metric",
    "seed": "training.seed",
    "data_seed": "training.seed",
    "report_to": "reporting",
    "fsdp": "distributed.strategy",
    "fsdp_config": "distributed.strategy",
    "deepspeed": "distributed.strategy",
    "label_smoothing_factor": "training.loss",
}
"""TrainingArguments field -> the field of the spec that sets it."""

ALLOWED = frozenset(
    {
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing_kwargs",
        "lr_scheduler_kwargs",
        "neftune_noise_alpha",
        "optim_args",
        "tf32",
        "torch_empty_cache_steps",
    }
)
"""Fields of training.extra: they change numbers or speed, and leave checkpoints, reports and the network alone."""

OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw-8bit": "adamw_8bit",
    "paged-adamw-8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
"""training.optimizer -> transformers' name. The 8-bit ones are those of bitsandbytes."""


def check_extra(extra: dict[str, Any]) -> None:
    """Raises InvalidSpecError for a field of training.extra that is unknown, typed elsewhere, or not for users."""
    if not extra:
        return
    from transformers import TrainingArguments

    known = get_type_hints(TrainingArguments)
    for name, value in extra.items():
        if name in TYPED:
            raise InvalidSpecError(f"training.extra.{name}: set {TYPED[name]} in its place")
        if name not in known:
            similar = get_close_matches(name, ALLOWED, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise InvalidSpecError(f"training.extra.{name} is not a field of the installed TrainingArguments{hint}")
        if name not in ALLOWED:
            raise InvalidSpecError(f"training.extra.{name} cannot be set; allowed are {', '.join(sorted(ALLOWED))}")
        _check_type(name, value, known[name])


def _check_type(name: str, value: object, hint: Any) -> None:  # noqa: ANN401 - a type, as annotations have it
    try:
        TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise InvalidSpecError(f"training.extra.{name}: {error.errors()[0]['msg']}, found {value!r}") from error


def check_supported(run: Run) -> None:
    """Raises NotSupportedError or InvalidSpecError for what neither plan nor admission can know."""
    training = run.plan.training
    if training.precision == "fp16" and not torch.cuda.is_available():
        raise NotSupportedError("training.precision: fp16 needs an accelerator; use bf16 or fp32 on CPU")
    require_watchable(run.spec.training, training.eval_every)
    check_extra(run.spec.training.extra)


def sft_config(run: Run) -> "SFTConfig":
    """The arguments of this run. Raises InvalidSpecError for values that the installed version refuses."""
    from trl import SFTConfig  # seconds, which prepare spends on nothing when it only checks training.extra

    try:
        return SFTConfig(**_of_plan(run), **_of_spec(run), **_ours(run), **run.spec.training.extra)
    except (TypeError, ValueError) as error:
        raise InvalidSpecError(f"training.extra does not fit the installed TrainingArguments: {error}") from error


def _of_plan(run: Run) -> dict[str, Any]:
    training = run.plan.training
    return {
        "max_steps": training.total_steps,
        "per_device_train_batch_size": training.micro_batch_size,
        "per_device_eval_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "warmup_steps": training.warmup_steps,
        "lr_scheduler_type": training.scheduler,
        "optim": OPTIMIZERS[training.optimizer],
        "gradient_checkpointing": training.gradient_checkpointing,
        "logging_steps": training.log_every,
        "eval_strategy": "steps" if training.eval_every else "no",
        "eval_steps": training.eval_every or None,
        "save_steps": training.checkpoint_every,
        **_mixed_precision(run),
    }


def autocasts(run: Run) -> bool:
    """Whether training casts automatically: where float32 weights are trained in a shorter format.

    A LoRA run on CPU needs none: its base is frozen in bf16 and its adapter computes in float32; autocast would only
    cast the same weights at every call.
    """
    full = run.plan.method.type == "full"
    return run.plan.training.precision != "fp32" and (full or torch.cuda.is_available())


def _mixed_precision(run: Run) -> dict[str, Any]:
    precision = run.plan.training.precision
    return {"bf16": autocasts(run) and precision == "bf16", "fp16": autocasts(run) and precision == "fp16"}


def weights_precision(run: Run) -> str:
    """Number format of the loaded weights: the plan's for a frozen base, fp32 for weights that are trained.

    bf16 has eight bits of mantissa: an update smaller than 1/256 of its weight would be lost at every step.
    """
    return "fp32" if run.plan.method.type == "full" else run.plan.training.precision


def _of_spec(run: Run) -> dict[str, Any]:
    training = run.spec.training
    return {
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": training.seed,
        "data_seed": training.seed,
        "report_to": ["tensorboard"] if run.spec.reporting.tensorboard else "none",
    }


def _ours(run: Run) -> dict[str, Any]:
    stopping = run.spec.training.early_stopping
    return {
        "output_dir": str(run.workspace.checkpoints),
        "logging_strategy": "steps",
        "save_strategy": "steps",
        "logging_nan_inf_filter": False,
        "metric_for_best_model": STOPPING_METRICS[stopping.metric] if stopping else "eval_loss",
        "greater_is_better": False,
        "restore_callback_states_from_checkpoint": True,
        "remove_unused_columns": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "max_length": None,
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "log_level": "warning",
    }
