"""Entry point of the process that builds an ONNX model with onnxruntime-genai.

Alone in its process because the builder puts its own folder on sys.path and prints, and because its memory must be
given back before the parity gate. Decides nothing: options and configuration come from onnx_options and config_shim.
"""

import sys
from pathlib import Path

from finetune_trainer.exporting.builder_process import run_builder
from finetune_trainer.exporting.config_shim import adapt
from finetune_trainer.exporting.onnx_options import EXECUTION_PROVIDER, PRECISIONS, builder_options


def build(model: Path, output: Path, scratch: Path, precision: str) -> None:
    """Write the ONNX model, its genai_config and its tokenizer into `output`."""
    from onnxruntime_genai.models import builder

    place = ("", str(model), str(output), precision, EXECUTION_PROVIDER, str(scratch))
    prepared = builder.parse_extra_options(*place, builder_options(precision, _parameters(model)))
    adapt(prepared["hf_details"]["hf_config"])
    builder.create_model(*place, **prepared)


def _parameters(model: Path) -> int:
    """Number of parameters of a folder with float32 weights."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors")) // 4


if __name__ == "__main__":
    sys.exit(run_builder(build, PRECISIONS))
