"""How each export format is written and opened again. A new format is a writer, an opener and a line in FORMATS.

Must not publish and must not judge.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_api.spec import Export
from finetune_trainer.exporting import onnx_export
from finetune_trainer.exporting.head_proof import HeadOnnxModel, own_logits
from finetune_trainer.exporting.onnx_runtime import FEED, OnnxModel
from finetune_trainer.exporting.reference import Probe, torch_logits
from finetune_trainer.models.heads import Head
from finetune_trainer.models.load import load_model, load_source, load_tokenizer
from finetune_trainer.models.merge import own_dtype, save_whole
from finetune_trainer.run import Run

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Sources:
    """What writers read."""

    run: Run
    merged: Path
    """The merged model in float32; a folder that exists when a format needs it."""
    scratch: Path
    stops: list[int]
    head: Head | None = None
    """The head of the model; None for a language model."""


Logits = Iterator[tuple[int, np.ndarray]]
Opened = Callable[[Probe], Logits]
"""Logits at a probe's positions, as (first place, float32 [places, vocabulary]) chunk by chunk."""


@dataclass(frozen=True)
class Format:
    """One export format."""

    write: Callable[[Sources, Export, Path], None]
    open: Callable[[Sources, Path], Opened]
    needs_merged: bool
    precision: Callable[[Sources, Export], str]
    """Number format of the weights written."""


def _write_peft(sources: Sources, _export: Export, folder: Path) -> None:
    """The adapter as vLLM and peft read it: the base by its name, since a mount path means nothing elsewhere."""
    for name in ADAPTER_FILES:
        shutil.copyfile(sources.run.workspace.tuned / name, folder / name)
    path = folder / ADAPTER_FILES[0]
    config = json.loads(path.read_text())
    config |= {"base_model_name_or_path": model_id(sources.run), "revision": sources.run.plan.model.revision or None}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    load_tokenizer(sources.run.workspace.tuned).save_pretrained(folder)


def model_id(run: Run) -> str:
    """Name of the base model: org/name for the hub, else the URI without its scheme."""
    return run.plan.model.source.partition("://")[2] or run.plan.model.source


def _open_peft(sources: Sources, folder: Path) -> Opened:
    head = sources.head
    base = load_source(sources.run, "fp32", "eager", head)
    return _opened(sources, PeftModel.from_pretrained(base, folder, local_files_only=True).eval())


def _write_safetensors(sources: Sources, export: Export, folder: Path) -> None:
    dtype = torch.float32 if export.precision == "fp32" else own_dtype(sources.run.workspace.model)
    model = load_model(sources.merged, "fp32", "eager", head=sources.head)
    save_whole(model, load_tokenizer(sources.merged), folder, dtype, sources.stops)


def _open_safetensors(sources: Sources, folder: Path) -> Opened:
    return _opened(sources, load_model(folder, "fp32", "eager", head=sources.head))


def _write_onnx(sources: Sources, export: Export, folder: Path) -> None:
    onnx_export.build(
        sources.merged,
        folder,
        precision=export.precision or "fp32",
        scratch=sources.scratch,
        threads=sources.run.threads,
        builder="head_exporter" if sources.head else "genai_builder",
    )
    if sources.head:
        shutil.copyfile(sources.merged / "config.json", folder / "config.json")
        load_tokenizer(sources.merged).save_pretrained(folder)
        return
    _add_no_tokens(folder / "tokenizer_config.json")


def _add_no_tokens(path: Path) -> None:
    """The chat template writes the start of the sequence; onnxruntime-genai must not put a second one before it."""
    config = json.loads(path.read_text())
    config |= {name: False for name in ("add_bos_token", "add_eos_token") if config.get(name)}
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _open_onnx(sources: Sources, folder: Path) -> Opened:
    if sources.head:
        return HeadOnnxModel(folder, sources.run.threads, sources.head.pad_token_id)
    model = OnnxModel(folder, sources.run.threads)

    def logits(probe: Probe) -> Logits:
        done = 0
        for start, part in model.logits(probe.input_ids):
            here = [p - start for p in probe.positions if start <= p < start + FEED]
            if here:
                yield done, part[here]
                done += len(here)

    return logits


def _opened(sources: Sources, model: PreTrainedModel) -> Opened:
    logits = own_logits if sources.head else torch_logits
    return lambda probe: logits(model, probe)


def _short_name(sources: Sources, export: Export) -> str:
    if export.precision:
        return export.precision
    names: dict[Any, str] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names.get(own_dtype(sources.run.workspace.model), "fp32")


FORMATS = {
    "peft": Format(_write_peft, _open_peft, needs_merged=False, precision=lambda _s, _e: "fp32"),
    "safetensors": Format(_write_safetensors, _open_safetensors, needs_merged=True, precision=_short_name),
    "onnx": Format(_write_onnx, _open_onnx, needs_merged=True, precision=lambda _s, e: e.precision or "fp32"),
}
"""By export.format."""
