"""Turns a GGUF file into a Hugging Face folder with safetensors, once, in prepare.

The weights were quantized, so bf16 holds all that they say. The result has no trace of GGUF: it trains, merges and
exports as any other model. Must not change the chat template or the tokenizer.
"""

from pathlib import Path
from typing import Any

from finetune_trainer.errors import InvalidModelError


def convert_gguf(weights: Path, target: Path, uri: str) -> None:
    """Write the model of GGUF file `weights` to folder `target` as bf16 safetensors, with tokenizer and chat template.

    Raises InvalidModelError when the file is cut, split, or of an architecture that cannot be read.
    """
    _check(weights, uri)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(weights.parent), weights.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            local_files_only=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # whatever a parser stumbles over, the file is at fault
        raise InvalidModelError(f"{uri}: {name} cannot be read: {error}") from error
    model = _plain(loaded)
    target.mkdir(parents=True)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _check(weights: Path, uri: str) -> None:
    with weights.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InvalidModelError(f"{uri}: {weights.name} is not a GGUF file; copy it again")
    if "-of-" in weights.stem:
        raise InvalidModelError(
            f"{uri}: {weights.name} is one part of several; join them first (llama-gguf-split --merge)"
        )


def _plain(loaded: Any) -> Any:  # noqa: ANN401 - any causal language model
    """The same weights in a model that was never quantized: one loaded from GGUF refuses to be saved."""
    import torch
    from transformers import AutoModelForCausalLM

    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    return model
