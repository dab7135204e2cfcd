"""What training leaves in workspace.tuned: an adapter or a whole model, with the tokenizer, complete or not at all.

Must not name a path of this pod: whoever loads the adapter elsewhere needs the model's own id.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.status import PlannedModel
from finetune_trainer.models.initialization import save_as_plain_lora
from finetune_trainer.result import sync_directory

RESULT = "training_result.json"
UNREAD = ("README.md", "training_args.bin")


def model_id(model: PlannedModel) -> str:
    """The base model as others know it: org/name of the hub, else the source URI as it stands in the spec."""
    return model.source.removeprefix("hf://").rstrip("/")


def write_tuned(
    target: Path,
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    planned: PlannedModel,
    result: dict[str, Any],
    start: Path | None = None,
) -> None:
    """Write the trained weights as safetensors, the tokenizer with its chat template, and `result`; show them at once.

    `start` is the file with the start values of an adapter that did not start at zero. Raises OSError when
    the volume does not take them; `target` is then as it was.
    """
    aside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _save_weights(aside, model, planned)
        if start is not None:
            save_as_plain_lora(aside, start)
        tokenizer.save_pretrained(aside)
        (aside / RESULT).write_text(json.dumps(result, indent=1))
        for name in UNREAD:
            (aside / name).unlink(missing_ok=True)
        _publish(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _save_weights(folder: Path, model: PreTrainedModel | PeftModel, planned: PlannedModel) -> None:
    if not isinstance(model, PeftModel):
        model.save_pretrained(folder)
        return
    config = model.peft_config[model.active_adapter]
    local = (config.base_model_name_or_path, config.revision)
    config.base_model_name_or_path, config.revision = model_id(planned), planned.revision or None
    try:
        # Without embeddings among the trained modules there are none to save; "auto" would ask the hub for their size.
        model.save_pretrained(folder, save_embedding_layers=_trains_embeddings(config))
    finally:
        config.base_model_name_or_path, config.revision = local


def _trains_embeddings(config: PeftConfig) -> bool:
    targets = config.target_modules if isinstance(config.target_modules, set | list) else ()
    return any(name.endswith(("embed_tokens", "lm_head")) for name in targets)


def _publish(aside: Path, target: Path) -> None:
    for path in aside.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    sync_directory(aside)
    if target.exists():
        replaced = target.with_name(f".{target.name}.old")
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
        aside.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        aside.rename(target)
    sync_directory(target.parent)
