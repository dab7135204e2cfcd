"""How a model and its tokenizer are read: local safetensors only, never a model's own code, never the network.

Decides device, number format and attention. Must not decide what is trained (adapters.py) and must not write anything.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from finetune_trainer.errors import InvalidModelError, SourceNotFoundError
from finetune_trainer.models.folder_check import ADAPTER_CONFIG
from finetune_trainer.models.heads import Head, head_module, head_name, head_of
from finetune_trainer.run import Run

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ATTENTION = {"flash": "flash_attention_2", "auto": "sdpa"}
LOCAL_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _place() -> int | torch.device:
    """The same for accelerate, which wants an accelerator by its number."""
    return torch.cuda.current_device() if torch.cuda.is_available() else torch.device("cpu")


def load_model(
    path: Path,
    precision: str,
    attention: str,
    quantization: BitsAndBytesConfig | None = None,
    head: Head | None = None,
    *,
    new_head: bool = False,
) -> PreTrainedModel:
    """The causal language model in folder `path`, in evaluation mode, with every weight from its safetensors files.

    With `head` it is the model with that head, in float32; with `new_head` the files have none, and its values are for
    the caller to set.

    `precision` is fp32, bf16 or fp16; `attention` is eager, sdpa, flash or auto (sdpa). With `quantization` the linear
    layers are quantized while they are read.
    Raises SourceNotFoundError when the folder is absent, InvalidModelError when it cannot be loaded or lacks weights.
    """
    _require_folder(path)
    disable_progress_bar()  # a bar is noise in a pod's log
    kind = head.auto_class if head else AutoModelForCausalLM
    try:
        with _unreported() if new_head else nullcontext():
            model, report = kind.from_pretrained(
                path,
                **({"config": head.config(path)} if head else {}),
                dtype=DTYPES[precision],
                attn_implementation=ATTENTION.get(attention, attention),
                use_safetensors=True,
                output_loading_info=True,
                quantization_config=quantization,
                device_map={"": _place()} if quantization else None,
                **LOCAL_ONLY,
            )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise InvalidModelError(f"{path} cannot be loaded as a causal language model: {error}") from error
    _require_whole(path, report, f"{head_name(model)}." if new_head else None)
    if head:
        head_module(model).float()
        if not new_head and precision != "fp32":
            _read_head(model, path)
    return model.eval() if quantization else model.to(device()).eval()


def _read_head(model: PreTrainedModel, path: Path) -> None:
    """Give the head of `model` the values in `path` as they are there: the library has rounded them with the rest."""
    prefix = f"{head_name(model)}."
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
            values = {name.removeprefix(prefix): tensors.get_tensor(name).float() for name in names}
        head_module(model).load_state_dict(values, strict=False)


def load_source(
    run: Run, precision: str, attention: str, head: Head | None, quantization: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """The job's model untouched: as a language model without `head`, else with its own head or room for a new one.

    Raises as load_model does.
    """
    new_head = head is not None and head.is_new
    return load_model(run.workspace.model, precision, attention, quantization, head, new_head=new_head)


def load_tokenizer(path: Path, chat_template: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer in folder `path`, with `chat_template` over its own when given.

    A tokenizer without padding token pads with its end-of-sequence token: padding is told apart by masks, never by id.
    Raises SourceNotFoundError or InvalidModelError.
    """
    _require_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **LOCAL_ONLY)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise InvalidModelError(f"{path} has no tokenizer that can be loaded: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template:
        tokenizer.chat_template = chat_template
    return tokenizer


def load_tuned(run: Run, precision: str | None = None, attention: str | None = None) -> PreTrainedModel:
    """What stage train made, in evaluation mode: base and adapter (a PeftModel), or the whole model of full tuning.

    `precision` and `attention` are the plan's unless given. Raises SourceNotFoundError when train has not run.
    """
    tuned, head = run.workspace.tuned, head_of(run)
    precision = precision or run.plan.training.precision
    attention = attention or run.plan.training.attention
    _require_folder(tuned)
    if not (tuned / ADAPTER_CONFIG).exists():
        return load_model(tuned, precision, attention, head=head)
    base = load_source(run, precision, attention, head)
    return PeftModel.from_pretrained(base, tuned, local_files_only=True).eval()


@contextmanager
def _unreported() -> Iterator[None]:
    """Without the library's table of tensors that a language model has and a head has not."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _require_folder(path: Path) -> None:
    if not path.is_dir():
        raise SourceNotFoundError(f"{path} is missing or not a folder: the stage that makes it must run first")


def _require_whole(path: Path, report: dict[str, Any], besides: str | None = None) -> None:
    """Refuse what transformers would fill with random numbers, but for tensors whose name begins with `besides`."""
    absent = sorted(key for key in report.get("missing_keys", ()) if besides is None or not key.startswith(besides))
    misshapen = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get("mismatched_keys", ()))
    if absent or misshapen:
        names = ", ".join([*absent, *misshapen][:5])
        raise InvalidModelError(
            f"{path} lacks {len(absent)} tensors and has {len(misshapen)} of the wrong shape ({names}): "
            "config.json and the safetensors files do not belong together"
        )
