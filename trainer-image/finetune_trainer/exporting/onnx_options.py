"""Options of the ONNX model builder, by precision: the allow-list.

The builder takes any option name silently and can write a wrong graph with exit code 0, so only combinations that were
measured are named here, and nothing from a user reaches it. Pure.
"""

PRECISIONS = ("fp32", "int8", "int4")
EXECUTION_PROVIDER = "cpu"

_ALWAYS = {
    "windowed_kv_cache": "false",  # a bounded cache fails for every max_length below the window
    "hf_token": "false",  # a token is never looked for: the model is local
}
_BY_PRECISION: dict[str, dict[str, str]] = {
    "fp32": {},
    "int8": {},
    # int8 for the output layer and, in about half of the layers, for value and down projection: on the demo's tuned
    # SmolLM2-135M this halves the divergence (KL 0.041 to 0.022) for a tenth more space. Asymmetric weights and exact
    # activations (accuracy_level) change nothing.
    "int4": {"algo_config": "k_quant", "matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"},
}
SMALL_MODEL = 1_000_000_000
"""Parameters below which int4 scales every 16 weights instead of 32: a small model has less to spare. On the same
model this halves the divergence again (KL 0.022 to 0.011, 117 to 137 MB); without it the default limits are missed."""


def builder_options(precision: str, parameters: int) -> list[str]:
    """KEY=VALUE options for `precision`, one of PRECISIONS (KeyError for another), of a model of that size."""
    options = _ALWAYS | _BY_PRECISION[precision]
    if precision == "int4" and parameters < SMALL_MODEL:
        options |= {"block_size": "16"}
    return [f"{key}={value}" for key, value in sorted(options.items())]
