"""Builds an ONNX model in a process of its own and cleans what the builder leaves in it.

Must not judge the model: that is the parity gate's work.
"""

import os
import subprocess
import sys
from pathlib import Path

from finetune_trainer.errors import NotSupportedError, OutOfMemoryError, StageError

_KILLED = -9


def build(
    model: Path, output: Path, *, precision: str, scratch: Path, threads: int, builder: str = "genai_builder"
) -> None:
    """Write the ONNX model of the Hugging Face folder `model` into `output`; `builder` is a module beside this one.

    Raises OutOfMemoryError when the kernel ended the builder, NotSupportedError for an architecture that it does not
    know, OSError when the volume is full, StageError for any other failure, with the builder's last words.
    """
    log = scratch / f"builder-{precision}.log"
    with log.open("wb") as file:
        ended = subprocess.run(
            _command(builder, model, output, precision, scratch),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(threads, scratch),
            cwd=scratch,
            check=False,
        )
    if ended.returncode:
        raise _cause(ended.returncode, log.read_text(errors="replace"), precision)


def _command(builder: str, model: Path, output: Path, precision: str, scratch: Path) -> list[str]:
    places = ["--model", str(model), "--output", str(output), "--scratch", str(scratch / "builder")]
    return [sys.executable, "-m", f"finetune_trainer.exporting.{builder}", *places, "--precision", precision]


def _environment(threads: int, scratch: Path) -> dict[str, str]:
    settings = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "TMPDIR": str(scratch)}
    return {**os.environ, **settings, "OMP_NUM_THREADS": str(threads)}


def _cause(code: int, log: str, precision: str) -> Exception:
    last = log.strip().rpartition("\n")[2]
    if code == _KILLED or "MemoryError" in last:
        return OutOfMemoryError(
            f"the ONNX builder had no memory left at precision {precision}; give the export stage more memory, "
            "or choose precision: fp32, which needs least"
        )
    if "NotImplementedError" in last:
        return NotSupportedError(f"format: onnx does not support this architecture ({last}); use format: safetensors")
    if "No space left on device" in log:
        return OSError(f"No space left on device: {last}")
    return StageError(f"the ONNX builder failed at precision {precision} with exit code {code}: {last}")
