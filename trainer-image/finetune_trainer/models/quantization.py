"""How the frozen base of QLoRA is held: quantized by bitsandbytes while it is read. Only training uses it.

The adapter that comes out is judged, merged and published on the unquantized base, so nothing is ever quantized twice
and nothing is merged into rounded weights.
"""

import torch
from transformers import BitsAndBytesConfig

from finetune_api.spec import MethodSpec
from finetune_trainer.models.adaptation import quantization_of
from finetune_trainer.models.inspection import HEAD_MODULES

HEADS = ("lm_head", "embed_out", *HEAD_MODULES)
"""Output heads by name: never quantized, because the loss is made of their logits."""


def bitsandbytes_config(method: MethodSpec, dtype: torch.dtype, *, classes: bool = False) -> BitsAndBytesConfig | None:
    """What transformers needs to quantize the base; it computes in `dtype`. None for a base that stays as it is.

    Modules that are trained whole, as a head of `classes` is, stay as they are, since a rounded weight cannot take
    small updates.
    """
    quantization = quantization_of(method)
    if quantization is None:
        return None
    # A list replaces the library's own choice, which spares the head.
    skipped = [*HEADS, *method.modules_to_save] if method.modules_to_save or classes else None
    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )
