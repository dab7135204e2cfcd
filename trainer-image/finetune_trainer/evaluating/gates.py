"""Whether the bars of evaluation.gates are cleared. Pure: numbers in, verdicts out."""

import math
from collections.abc import Mapping, Sequence

from finetune_api.spec import Gate
from finetune_api.status import GateResult

LOWER_IS_BETTER = frozenset({"eval_loss", "perplexity"})


def judge(gates: Sequence[Gate], tuned: Mapping[str, float], baseline: Mapping[str, float]) -> list[GateResult]:
    """One verdict per gate. A metric that was not measured, or is not a number, clears nothing."""
    return [_judge(gate, tuned.get(gate.metric), baseline.get(gate.metric)) for gate in gates]


def _judge(gate: Gate, tuned: float | None, baseline: float | None) -> GateResult:
    got = _got(gate, tuned, baseline)
    return GateResult(
        metric=gate.metric, required=requirement(gate), got=got, passed=got is not None and _clears(gate, got)
    )


def requirement(gate: Gate) -> str:
    """The bar in words."""
    if gate.at_least is not None:
        return f"at least {gate.at_least:g}"
    if gate.at_most is not None:
        return f"at most {gate.at_most:g}"
    return f"at least {gate.improves_baseline_by:g} better than the baseline"


def unmet(results: Sequence[GateResult]) -> str:
    """The failed gates in one line; empty when all are met."""
    return "; ".join(
        f"{result.metric} must be {result.required}, got {'no number' if result.got is None else f'{result.got:.4g}'}"
        for result in results
        if not result.passed
    )


def _got(gate: Gate, tuned: float | None, baseline: float | None) -> float | None:
    if gate.improves_baseline_by is None:
        value = tuned
    elif tuned is None or baseline is None:
        value = None
    else:
        value = baseline - tuned if gate.metric in LOWER_IS_BETTER else tuned - baseline
    return value if value is not None and math.isfinite(value) else None


def _clears(gate: Gate, got: float) -> bool:
    if gate.at_least is not None:
        return got >= gate.at_least
    if gate.at_most is not None:
        return got <= gate.at_most
    return gate.improves_baseline_by is not None and got >= gate.improves_baseline_by
