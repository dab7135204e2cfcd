"""What preference training minimises, one loss for each row, from the log-likelihoods of two answers. Pure.

    dpo   Direct preference optimisation, sigmoid loss: Rafailov et al. 2023, arXiv 2305.18290, equation 7.
    orpo  Odds ratio preference optimisation: Hong et al. 2024, arXiv 2403.07691, equation 6; beta is its lambda.
    kto   Kahneman-Tversky optimisation: Ethayarajh et al. 2024, arXiv 2402.01306, equations 7 and 8, with weights of 1
          for wanted and unwanted answers.

Must not sum or average over rows, which callers do over a whole step.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Likelihoods:
    """Of each row: its answer (of a pair the chosen one), and another answer to its prompt.

    The other one is the rejected answer of a pair; for kto it belongs to another prompt. All tensors are [rows].
    """

    answer: torch.Tensor
    """Summed log-likelihood in nats."""
    other: torch.Tensor
    answer_tokens: torch.Tensor
    """Tokens of the answer, its end included."""
    other_tokens: torch.Tensor
    reference_answer: torch.Tensor | None = None
    """The same under the untouched model; None for orpo."""
    reference_other: torch.Tensor | None = None
    desirable: torch.Tensor | None = None
    """kto: whether the answer is wanted, bool."""

    @property
    def answer_ratio(self) -> torch.Tensor:
        """Log-likelihood of the answer over that under the untouched model."""
        return self.answer if self.reference_answer is None else self.answer - self.reference_answer

    @property
    def other_ratio(self) -> torch.Tensor:
        """The same of the other answer."""
        return self.other if self.reference_other is None else self.other - self.reference_other


@dataclass(frozen=True)
class Judged:
    """Losses and rewards, each [rows]."""

    losses: torch.Tensor
    """Carry gradients."""
    rewards: torch.Tensor
    """Of the answer: beta times its log-ratio (orpo: its log-likelihood per token)."""
    other_rewards: torch.Tensor
    """Of the other answer; kto: the divergence that rewards are compared with."""
    wanted: torch.Tensor
    """Whether `rewards` should be above `other_rewards`, bool."""

    @property
    def right(self) -> torch.Tensor:
        """Whether reward and other reward are in the order that they should be in, bool [rows]."""
        return torch.where(self.wanted, self.rewards > self.other_rewards, self.rewards < self.other_rewards)


def judge(objective: str, likelihoods: Likelihoods, beta: float, divergence: torch.Tensor | None = None) -> Judged:
    """Losses and rewards of rows under `objective` (training.objective) with `beta` (training.beta).

    kto needs `divergence`, a scalar, as `divergence_of` estimates it.
    """
    if objective == "dpo":
        return _dpo(likelihoods, beta)
    if objective == "orpo":
        return _orpo(likelihoods, beta)
    if divergence is None or likelihoods.desirable is None:
        raise ValueError("kto needs the divergence and the verdicts")
    return _kto(likelihoods.answer_ratio, likelihoods.desirable, beta, divergence)


def divergence_of(other_ratio: torch.Tensor) -> torch.Tensor:
    """KTO's estimate of the divergence of model and reference, from log-ratios [rows] of answers to other prompts.

    Never below zero, as no divergence is. Carries no gradient.
    """
    return other_ratio.detach().mean().clamp(min=0)


def _dpo(found: Likelihoods, beta: float) -> Judged:
    rewards, other_rewards = beta * found.answer_ratio, beta * found.other_ratio
    return _compared(-logsigmoid(rewards - other_rewards), rewards, other_rewards)


def _orpo(found: Likelihoods, weight: float) -> Judged:
    """Negative log-likelihood of the chosen answer, and the odds by which it beats the rejected one.

    Both are per token, so that an answer does not count by its length.
    """
    chosen, rejected = found.answer / found.answer_tokens, found.other / found.other_tokens
    log_odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
    return _compared(-chosen - weight * logsigmoid(log_odds), weight * chosen, weight * rejected)


def _kto(ratio: torch.Tensor, desirable: torch.Tensor, beta: float, divergence: torch.Tensor) -> Judged:
    sign = torch.where(desirable, 1.0, -1.0)
    losses = 1 - torch.sigmoid(sign * beta * (ratio - divergence))
    return Judged(losses, beta * ratio.detach(), (beta * divergence).expand(len(ratio)), desirable)


def _compared(losses: torch.Tensor, rewards: torch.Tensor, other_rewards: torch.Tensor) -> Judged:
    return Judged(losses, rewards.detach(), other_rewards.detach(), torch.ones_like(losses, dtype=torch.bool))


def _log_of_rest(log_likelihood: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x below 0, without cancellation on either side of -log 2."""
    small = log_likelihood < -0.6931471805599453
    # Each branch sees only what it can differentiate: where() gives the other one a gradient of 0 times infinity.
    far = torch.log1p(-torch.exp(torch.where(small, log_likelihood, -1.0)))
    near = torch.log(-torch.expm1(torch.where(small, -0.5, log_likelihood).clamp(max=-LEAST)))
    return torch.where(small, far, near)


LEAST = 1e-12
"""Below a log-likelihood of -LEAST an answer is certain in float32, and its odds are infinite."""
