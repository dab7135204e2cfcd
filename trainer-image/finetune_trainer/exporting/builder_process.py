"""The process in which an ONNX model is built: its command line, and that it ends with the stage that started it.

Decides nothing about the model. Exit code 0 says nothing about its correctness: that is the parity gate's work.
"""

import argparse
import ctypes
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Build = Callable[[Path, Path, Path, str], None]
"""Folder of the model, folder to write, folder for scratch, precision."""
_PR_SET_PDEATHSIG = 1


def run_builder(build: Build, precisions: Sequence[str], arguments: list[str] | None = None) -> int:
    """Parse the command line and build. Returns the exit code; what `build` raises ends the process with 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--precision", choices=precisions, required=True)
    options = parser.parse_args(arguments)
    _end_with_parent()
    build(options.model, options.output, options.scratch, options.precision)
    return 0


def _end_with_parent() -> None:
    """A builder whose stage was killed must not go on writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
