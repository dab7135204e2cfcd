"""Entry point of the process that writes an ONNX model with a head of classes.

The graph is transformers' own export; int8 stores the weights of its matrix products in blocks of 8 bits and leaves
activations alone, because a range for a whole tensor of a decoder's activations costs accuracy. The graph in float32
is kept in the scratch folder: tracing is what takes time. Exit code 0 says nothing about the model's correctness.
"""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

from finetune_trainer.exporting.builder_process import run_builder

PRECISIONS = ("fp32", "int8")
GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"
BLOCK = 32
"""Weights that share a scale."""
EXACT_ACTIVATIONS = 0
"""Of ONNX Runtime's accuracy levels: sums in float32. 4 rounds activations and doubles the divergence."""
_TRACED = (2, 8)
"""Rows and tokens of the example that is traced; both stay free in the graph."""


def build(model: Path, output: Path, scratch: Path, precision: str) -> None:
    """Write the graph with its weights in `precision` into `output`; that in float32 stays in `scratch`."""
    whole = scratch / "float32"
    if not (whole / GRAPH).exists():
        aside = scratch / "float32-unfinished"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _trace(model, aside)
        aside.rename(whole)
    if precision == "int8":
        _quantize(whole / GRAPH, output / GRAPH)
    else:
        shutil.copytree(whole, output, dirs_exist_ok=True)


def _trace(model: Path, folder: Path) -> None:
    import onnx_ir
    import torch
    from transformers import AutoConfig
    from transformers.exporters import OnnxConfig, OnnxExporter

    config = AutoConfig.from_pretrained(model, local_files_only=True)
    loaded = _head_class(config).from_pretrained(
        model, dtype=torch.float32, use_safetensors=True, local_files_only=True, attn_implementation=_attention(config)
    )
    loaded.config.use_cache = False  # else every key and value becomes an output
    ids = torch.arange(_TRACED[0] * _TRACED[1]).reshape(_TRACED) % 7
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    free = {name: {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO} for name in example}
    exported = OnnxExporter().export(loaded.eval(), example, OnnxConfig(dynamic_shapes=free, ort_fusions="cpu"))
    _forget_sources(exported.program)
    onnx_ir.save(exported.program, str(folder / GRAPH), external_data=WEIGHTS)


def _head_class(config: Any) -> Any:  # noqa: ANN401 - a configuration and a class of any family
    import transformers

    return getattr(transformers, config.architectures[0])


def _attention(config: Any) -> str:  # noqa: ANN401 - a configuration of any family
    """sdpa cannot cap attention scores, as Gemma 2 does."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def _forget_sources(program: Any) -> None:  # noqa: ANN401 - an onnx_ir.Model
    """Take away paths and lines of this machine's Python files."""
    import onnx_ir

    program.metadata_props.clear()
    for graph in program.graphs():
        graph.metadata_props.clear()
        for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()


def _quantize(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)  # two lines for each node
    settings = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=EXACT_ACTIVATIONS, bits=8
    )
    model = onnx.load(source)
    head = [node.name for node in model.graph.node if node.op_type == "MatMul"][-1]  # too small to be worth it
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=[head], algo_config=settings)
    quantizer.process()
    onnx.save(quantizer.model.model, target, save_as_external_data=True, location=WEIGHTS)


if __name__ == "__main__":
    sys.exit(run_builder(build, PRECISIONS))
