"""Tiny random-weight models of real architectures, with the family's own chat template: for every trainer test.

Two layers, hidden size 128, heads of 64, widths that are multiples of 32 (blocks of int4 kernels), and a vocabulary
whose size equals no projection width, so that a transposed or mixed-up weight cannot go unnoticed. The tokenizer is
trained here on a few sentences. Must not reach the network.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

VOCAB_SIZE = 480
HIDDEN_SIZE = 128
HEAD_DIM = 64
CONTEXT_LENGTH = 512

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT_LENGTH,
}


@dataclass(frozen=True)
class Family:
    """What makes a family's tokenizer and configuration its own."""

    model_type: str
    template: str
    """Name of the chat template in the TRL wheel."""
    eos: str
    pad: str
    end_of_turn: str
    """Token that ends an assistant's turn in the chat template."""
    specials: tuple[str, ...]
    bos: str | None = None
    adds_bos: bool = False
    """Whether the tokenizer itself puts bos in front, as the real one does."""
    config: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama": Family(
        "llama",
        "llama3",
        eos="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
        end_of_turn="<|eot_id|>",
        specials=("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>"),
        bos="<|begin_of_text|>",
        adds_bos=True,
        config={"tie_word_embeddings": False},
    ),
    "qwen2": Family(
        "qwen2",
        "qwen2_5",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        end_of_turn="<|im_end|>",
        specials=("<|im_start|>",),
        config={"tie_word_embeddings": True},
    ),
    "qwen3": Family(
        "qwen3",
        "qwen3",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        end_of_turn="<|im_end|>",
        specials=("<|im_start|>", "<think>", "</think>"),
        config={"tie_word_embeddings": True, "head_dim": HEAD_DIM},
    ),
    "phi3": Family(
        "phi3",
        "phi3",
        eos="<|endoftext|>",
        pad="<|placeholder1|>",
        end_of_turn="<|end|>",
        specials=("<|assistant|>", "<|user|>", "<|system|>"),
        bos="<s>",
        config={"tie_word_embeddings": False, "original_max_position_embeddings": CONTEXT_LENGTH},
    ),
    "gemma": Family(
        "gemma",
        "gemma",
        eos="<eos>",
        pad="<pad>",
        end_of_turn="<end_of_turn>",
        specials=("<start_of_turn>",),
        bos="<bos>",
        adds_bos=True,
        config={"tie_word_embeddings": True, "head_dim": HEAD_DIM},
    ),
    "gemma2": Family(
        "gemma2",
        "gemma",
        eos="<eos>",
        pad="<pad>",
        end_of_turn="<end_of_turn>",
        specials=("<start_of_turn>",),
        bos="<bos>",
        adds_bos=True,
        config={"tie_word_embeddings": True, "head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM},
    ),
    "gemma3": Family(
        "gemma3_text",
        "gemma3",
        eos="<eos>",
        pad="<pad>",
        end_of_turn="<end_of_turn>",
        specials=("<start_of_turn>",),
        bos="<bos>",
        adds_bos=True,
        config={"tie_word_embeddings": True, "head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM},
    ),
}

SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "A small model learns a narrow task well when the examples are clean and the answers are short.",
    "News: the company said its profit rose by ten percent in the third quarter. Topic? earnings",
    "News: crude oil prices fell after the ministers met in Vienna to discuss production. Topic? crude",
    "News: the bank will buy a smaller rival for two billion dollars in cash and stock. Topic? acquisition",
    "You are a helpful assistant who answers questions about orders, refunds and delivery times.",
    "How do I return a parcel? Open your orders, choose the parcel and press return.",
    "Summarize the following description in one line: a library for reading and writing tables.",
    "Question: what is two plus three? Answer: five. Question: what is nine minus four? Answer: five.",
    "The quick brown fox jumps over the lazy dog while seventeen wizards quietly box under a yellow moon.",
    "system user assistant model Question Answer Instruction Input Output Response Text Label Summary",
    "Today Date: Cutting Knowledge Date: December 2023 You are Qwen, created by Alibaba Cloud.",
)


def build_tiny_model(family: str, path: Path | None = None, *, vocab_size: int = VOCAB_SIZE, **config: Any) -> Path:
    """Write a tiny model of `family` (a key of FAMILIES) as a Hugging Face folder and return that folder.

    `vocab_size` is the embedding's; the tokenizer has as many tokens, or as many as its sentences give.

    Without `path` the folder is built once per machine and shared: do not write into it. Further keywords override
    its config.
    """
    if path is None:
        return _shared(family)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(family, vocab_size)
    tokenizer.save_pretrained(path)
    sizes = {"vocab_size": vocab_size, **config}
    _build_weights(FAMILIES[family], tokenizer, sizes).save_pretrained(path)
    return path


def build_long_model(family: str, path: Path, context_length: int = 1024) -> Path:
    """A tiny model in `path` for rows with tools: Qwen's own words around them take 400 of its tokens."""
    build_tiny_model(family, path, max_position_embeddings=context_length)
    settings = path / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": context_length}))
    return path


def _shared(family: str) -> Path:
    """One copy per version of this file; workers of pytest-xdist may race, so it is built aside and renamed."""
    version = hashlib.sha256(Path(__file__).read_bytes() + metadata.version("transformers").encode()).hexdigest()[:12]
    root = Path(tempfile.gettempdir()) / f"finetune-tiny-models-{os.getuid()}-{version}"
    target = root / family
    if not target.exists():
        root.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=root))
        build_tiny_model(family, aside / family)
        try:
            (aside / family).rename(target)
        except OSError:
            if not target.exists():
                raise
        shutil.rmtree(aside, ignore_errors=True)
    return target


def build_tokenizer(family: str, vocab_size: int = VOCAB_SIZE) -> Any:
    """A byte-level BPE tokenizer with the family's special tokens and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    traits = FAMILIES[family]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = dict.fromkeys([traits.pad, traits.eos, traits.bos, traits.end_of_turn, *traits.specials])
    specials = [name for name in names if name]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    if traits.adds_bos and traits.bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{traits.bos} $A",
            pair=f"{traits.bos} $A {traits.bos} $B",
            special_tokens=[(traits.bos, core.token_to_id(traits.bos))],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=traits.bos,
        eos_token=traits.eos,
        pad_token=traits.pad,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (files("trl") / "chat_templates" / f"{traits.template}.jinja").read_text()
    return tokenizer


def _build_weights(traits: Family, tokenizer: Any, overrides: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(traits.end_of_turn)}
    config = AutoConfig.for_model(
        traits.model_type,
        **{**_SIZES, **traits.config, **overrides},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = sorted(ends)
    return model
