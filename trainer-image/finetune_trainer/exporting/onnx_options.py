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
    # int8 for the output layer and, in about half of the layers, for value and down projection: on a tuned SmolLM2-135M
    # this halves the divergence (KL 0.023 to 0.012) for a tenth more space; without it the default limits are missed.
    "int4": {"algo_config": "k_quant", "matmul_mixed_precision": "last_matmul:int8,mixed_layers:int8"},
}


def builder_options(precision: str) -> list[str]:
    """KEY=VALUE options for `precision`, one of PRECISIONS; KeyError for another."""
    return [f"{key}={value}" for key, value in sorted((_ALWAYS | _BY_PRECISION[precision]).items())]
