"""Writes a tiny Llama model as a GGUF file, as llama.cpp's converter does: Q8_0, rotated heads, tokenizer."""

import json
from pathlib import Path
from typing import Any

ARCHITECTURE = "llama"
_CONTROL, _NORMAL = 3, 1


def write_gguf(model: Path, target: Path) -> Path:
    """Write the Hugging Face folder `model` (architecture llama) to the file `target`, matrices as Q8_0."""
    from gguf import GGUFWriter

    config = json.loads((model / "config.json").read_text())
    writer = GGUFWriter(str(target), ARCHITECTURE)
    _write_config(writer, config)
    _write_tokenizer(writer, model)
    _write_tensors(writer, model, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _write_config(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _write_tokenizer(writer: Any, model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    document = json.loads((model / "tokenizer.json").read_text())
    special = {token["id"] for token in document["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_types([_CONTROL if i in special else _NORMAL for i in range(len(tokenizer))])
    writer.add_token_merges([" ".join(merge) for merge in document["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _write_tensors(writer: Any, model: Path, config: dict[str, Any]) -> None:
    from gguf import GGMLQuantizationType, quants
    from safetensors.numpy import load_file

    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, weight in load_file(model / "model.safetensors").items():
        kind = next((part for part in heads if part in name), None)
        rotated = _rotated(weight, heads[kind]) if kind else weight
        if weight.ndim == 1:
            writer.add_tensor(_gguf_name(name), rotated)
        else:
            packed = quants.quantize(rotated, GGMLQuantizationType.Q8_0)
            writer.add_tensor(_gguf_name(name), packed, raw_dtype=GGMLQuantizationType.Q8_0)


def _rotated(weight: Any, heads: int) -> Any:
    """llama.cpp interleaves the two halves of each head."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _gguf_name(name: str) -> str:
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for theirs, ours in names.items():
        name = name.replace(theirs, ours)
    return name
