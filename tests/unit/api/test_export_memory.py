"""Memory of the export stage."""

import pytest

from finetune_api.sizing import estimate_export_bytes, estimate_exports_bytes

GIB = 2**30
SMOLLM2 = 134_515_008


@pytest.mark.parametrize(
    ("precision", "measured"),
    # SmolLM2-135M, in bytes: the stage's own peak for fp32, else the builder's peak and what the stage holds beside it.
    [("fp32", 2_105_096_000), ("int8", 2_050_302_000 + 1_000_000_000), ("int4", 2_770_432_000 + 1_000_000_000)],
)
def test_the_estimate_covers_what_was_measured_without_waste(precision: str, measured: int) -> None:
    assert measured < estimate_export_bytes(SMOLLM2, precision) < 1.6 * measured


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
    assert estimate_exports_bytes(10**9, []) == 2 * GIB
