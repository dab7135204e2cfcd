"""Memory of a stage, from the plan: pure arithmetic, so that the operator can size a Job without loading anything.

The figures are measured (onnxruntime-genai 0.18, transformers 5.23, CPU); they are upper bounds with some room, not
means.
"""

from collections.abc import Iterable

EXPORT_RUNTIME_BYTES = 2 * 2**30
"""Interpreter and libraries of the stage, and of the builder's process beside it."""

_BYTES_PER_PARAMETER: dict[tuple[str, str], float] = {
    ("onnx", "fp32"): 8.0,
    ("onnx", "int8"): 13.0,
    ("onnx", "int4"): 16.0,
}
_WITHOUT_BUILDER = 8.0
"""The tuned model in float32, and the layer that is being merged or the copy that is being cast."""


def estimate_export_bytes(parameters: int, precision: str | None, export_format: str = "onnx") -> int:
    """Peak memory in bytes of exporting a model of `parameters` weights in `export_format` and `precision`.

    `precision` absent means the format's default. An unknown combination gets the largest figure.
    """
    if export_format in ("peft", "safetensors"):
        factor = _WITHOUT_BUILDER
    else:
        factor = _BYTES_PER_PARAMETER.get((export_format, precision or "fp32"), max(_BYTES_PER_PARAMETER.values()))
    return EXPORT_RUNTIME_BYTES + int(factor * parameters)


def estimate_exports_bytes(parameters: int, exports: Iterable[tuple[str, str | None]]) -> int:
    """Peak memory of a stage that makes `exports`, pairs of format and precision, one after the other."""
    return max((estimate_export_bytes(parameters, p, f) for f, p in exports), default=EXPORT_RUNTIME_BYTES)
