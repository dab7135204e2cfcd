"""Folds an adapter into its base model and writes the whole model.

Merging is done in float32 and only the result is rounded, so that nothing is lost twice. Must not judge the result.
"""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """`model` without adapter, computing the same; a model that has none as it is. The adapter's memory is reused.

    Raises ValueError when the adapter's weights are not finite.
    """
    if not isinstance(model, PeftModel):
        return model
    whole = model.merge_and_unload(safe_merge=True)
    _untie_if_different(whole)
    return whole


def save_whole(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, dtype: torch.dtype, stops: list[int]
) -> None:
    """Write model, configuration and tokenizer; `stops` become the tokens that end generation. Casts `model`."""
    model = model.to(dtype)
    model.config.dtype = dtype
    _remember_stops(model, stops)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def own_dtype(path: Path) -> torch.dtype:
    """Number format of the weights in model folder `path`, as its config.json says; float32 when it does not."""
    dtype = getattr(AutoConfig.from_pretrained(path, local_files_only=True), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _untie_if_different(model: PreTrainedModel) -> None:
    """Tied embeddings are saved once; when training made them two, saving one would lose the other."""
    entrance, exit_ = model.get_input_embeddings(), model.get_output_embeddings()
    if not model.config.tie_word_embeddings or exit_ is None:
        return
    if entrance.weight is exit_.weight or torch.equal(entrance.weight, exit_.weight):
        model.tie_weights()
        return
    model.config.tie_word_embeddings = False


def _remember_stops(model: PreTrainedModel, stops: list[int]) -> None:
    """Serving must stop where training taught to; a sampling setting that transformers refuses to save is repaired."""
    settings = getattr(model, "generation_config", None)
    if settings is None:  # a head of classes generates nothing
        return
    settings.eos_token_id = stops
    if any(getattr(settings, name, None) is not None for name in ("temperature", "top_p", "top_k")):
        settings.do_sample = True
