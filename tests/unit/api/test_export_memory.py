"""Memory of the export stage."""

import pytest

from finetune_api.sizing import estimate_export_bytes, estimate_exports_bytes

GIB = 2**30
SMOLLM2 = 134_515_008


@pytest.mark.parametrize(
    ("precision", "measured"),
    # Peak resident set of the builder for SmolLM2-135M, in bytes.
    [("fp32", 979_111_936), ("int8", 1_748_553_728), ("int4", 2_482_245_632)],
)
def test_the_estimate_covers_what_was_measured_without_waste(precision: str, measured: int) -> None:
    assert measured < estimate_export_bytes(SMOLLM2, precision) < 3 * measured + GIB


def test_int4_needs_more_than_int8_and_that_more_than_fp32() -> None:
    needs = [estimate_export_bytes(10**9, precision) for precision in ("fp32", "int8", "int4")]
    assert needs == sorted(needs)
    assert estimate_export_bytes(10**9, None) == needs[0]


def test_the_estimate_grows_with_the_model() -> None:
    assert estimate_export_bytes(2 * 10**9, "int4") - estimate_export_bytes(10**9, "int4") == 16 * 10**9


def test_an_unknown_format_gets_the_largest_figure() -> None:
    assert estimate_export_bytes(10**9, "q8_0", "gguf") == estimate_export_bytes(10**9, "int4")


def test_a_stage_needs_what_its_largest_export_needs() -> None:
    exports = [("peft", None), ("onnx", "int4"), ("safetensors", None)]
    assert estimate_exports_bytes(10**9, exports) == estimate_export_bytes(10**9, "int4")
    assert estimate_exports_bytes(10**9, []) < 2 * GIB
