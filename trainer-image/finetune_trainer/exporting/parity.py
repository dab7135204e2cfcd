"""How close an export must be to the tuned model, how close it is, and the verdict. Pure: logits in, numbers out.

Exit codes of exporters prove nothing, so every artefact passes here before it is published. Quantized exports are not
judged on the largest difference of a logit, which is large even for good ones, but on the distributions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_api.spec import ParityLimits
from finetune_api.status import Parity

DEFAULT_LIMITS: dict[str, ParityLimits] = {
    "fp32": ParityLimits(max_abs=1e-3, min_top1=1.0),
    "fp16": ParityLimits(max_kl=1e-3, min_top1=0.99),
    "bf16": ParityLimits(max_kl=1e-3, min_top1=0.97),
    "int8": ParityLimits(max_kl=1e-3, min_top1=0.97),
    "int4": ParityLimits(max_kl=2e-2, min_top1=0.9, max_perplexity_ratio=1.05),
}
"""By the precision of the exported weights."""


def limits(precision: str, asked: ParityLimits | None) -> ParityLimits:
    """Default limits of `precision`, each replaced by the one that the job sets."""
    default = DEFAULT_LIMITS[precision]
    return default if asked is None else default.model_copy(update=asked.model_dump(exclude_none=True))


@dataclass
class Comparison:
    """Sums over positions of how an export's logits differ from the tuned model's."""

    positions: int = 0
    agreeing: int = 0
    kl_sum: float = 0.0
    max_abs: float = 0.0
    targets: int = 0
    reference_nll: float = 0.0
    export_nll: float = 0.0

    def add(self, reference: np.ndarray, export: np.ndarray, targets: np.ndarray) -> None:
        """Take in positions: logits as float32 [positions, vocabulary], and the next tokens, -1 where none is known."""
        ours, theirs = _log_softmax(reference), _log_softmax(export)
        self.positions += len(reference)
        self.agreeing += int((reference.argmax(axis=1) == export.argmax(axis=1)).sum())
        self.kl_sum += float((np.exp(ours) * (ours - theirs)).sum())
        # np.maximum, unlike max(), keeps NaN.
        self.max_abs = float(np.maximum(self.max_abs, np.abs(reference - export).max()))
        known = np.flatnonzero(targets >= 0)
        self.targets += len(known)
        self.reference_nll -= float(ours[known, targets[known]].sum())
        self.export_nll -= float(theirs[known, targets[known]].sum())

    def result(self, bounds: ParityLimits) -> Parity:
        """The measured numbers and whether they are within `bounds`."""
        measured = Parity(
            max_abs=self.max_abs,
            kl=self.kl_sum / self.positions,
            top1=self.agreeing / self.positions,
            perplexity_ratio=_ratio(self.export_nll - self.reference_nll, self.targets),
            passed=False,
        )
        return measured.model_copy(update={"passed": not violations(measured, bounds)})


def violations(measured: Parity, bounds: ParityLimits) -> list[str]:
    """What is outside, each as `parity.maxKl: 0.1, the limit is 0.02`. NaN is outside every limit."""
    upper = (
        ("maxAbs", measured.max_abs, bounds.max_abs),
        ("maxKl", measured.kl, bounds.max_kl),
        ("maxPerplexityRatio", measured.perplexity_ratio, bounds.max_perplexity_ratio),
    )
    found = [_violation(name, got, most) for name, got, most in upper if not _within(got, most)]
    top1, least = measured.top1, bounds.min_top1
    if top1 is not None and least is not None and not top1 >= least:
        found.append(_violation("minTop1", top1, least))
    return found


def _within(got: float | None, most: float | None) -> bool:
    """Without a limit anything finite passes; a number that could not be measured is not judged."""
    return got is None or (math.isfinite(got) and (most is None or got <= most))


def _violation(name: str, got: float | None, limit: float | None) -> str:
    return f"parity.{name}: {got:.4g}, the limit is {'a finite number' if limit is None else f'{limit:g}'}"


def _ratio(nll: float, tokens: int) -> float | None:
    if not tokens:
        return None
    return math.exp(min(nll / tokens, 700.0))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinite logits become NaN, which no limit allows
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def greedy_gap(logits: np.ndarray, tokens: Sequence[int]) -> float:
    """Largest distance, over steps, of the chosen token's logit from the step's highest. logits [steps, vocabulary]."""
    if not tokens:
        return 0.0
    chosen = logits[np.arange(len(tokens)), np.asarray(tokens)]
    return float((logits.max(axis=1) - chosen).max())
