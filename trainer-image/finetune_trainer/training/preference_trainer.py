# ruff: noqa: ANN401 - the signatures are those of transformers
"""The StageTrainer for preferences: other batches and another loss; checkpoints, guards and evaluations are the same.

Decides how rows become likelihoods; what is minimised is preference_losses.py's. A step minimises the mean over the
rows of the whole global batch, so gradients do not depend on how it is cut; KTO's estimate of the divergence spans the
whole global batch, too. Draws no random number beyond dropout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset

from finetune_trainer.errors import NotSupportedError
from finetune_trainer.run import Run
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.loss import makes_logits_whole, row_log_likelihoods
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.preference_losses import Judged, Likelihoods, divergence_of, judge
from finetune_trainer.training.preference_rows import DESIRABLE, lengths_of_pairs
from finetune_trainer.training.rows import IGNORED
from finetune_trainer.training.stage_trainer import StageTrainer

MARGINS, ACCURACIES = "rewards/margins", "rewards/accuracies"
_SEQUENCES = ("input_ids", "labels", "attention_mask")


class PreferenceTrainer(StageTrainer):
    """The trainer of stage train with training.objective dpo, orpo or kto."""

    def __init__(self, run: Run, store: CheckpointStore, preemption: Preemption, **arguments: Any) -> None:
        super().__init__(run, store, preemption, **arguments)
        self.objective = run.plan.training.objective
        self._since_log: list[Judged] = []
        if self.aux_loss_enabled:
            raise NotSupportedError(
                f"training.objective: {self.objective} on a mixture of experts, whose router has a loss of its own; "
                "use sft, or a model without experts"
            )

    def _lengths(self, rows: Dataset) -> list[int]:
        return lengths_of_pairs(rows)

    # -- batches and loss ---------------------------------------------------------------------------------------

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], _device: Any) -> int:
        """Rows of the global batch."""
        return sum(batch["rows"] for batch in batch_samples)

    def get_batch_samples(self, *arguments: Any) -> tuple[list[dict[str, Any]], int]:
        """The micro batches of a step, and its rows; for KTO with the divergence, estimated on all of them."""
        batches, rows = super().get_batch_samples(*arguments)
        if self.objective == "kto" and batches:
            with self._judging():
                ratios = torch.cat([self._other_ratio(batch) for batch in batches])
            for batch in batches:
                batch["divergence"] = divergence_of(ratios)
        return batches, rows

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss per row of the whole step."""
        inputs.pop("real_tokens", None)
        if return_outputs:
            raise NotImplementedError("preferences have no outputs beside their loss")
        likelihoods = self._likelihoods(model, inputs)
        judged = judge(self.objective, likelihoods, self.run.spec.training.beta, inputs.get("divergence"))
        self._since_log.append(_detached(judged))
        return judged.losses.sum() / (num_items_in_batch or inputs["rows"])

    def _likelihoods(self, model: Any, inputs: dict[str, Any]) -> Likelihoods:
        """Of a batch, on its device. For KTO the other answers' are those of `_other_ratio`."""
        summed, tokens = self._summed(model, {name: inputs[name] for name in _SEQUENCES})
        reference = inputs["reference"].float() if "reference" in inputs else None
        first, second = (None, None) if reference is None else reference.unbind(dim=1)
        if self.objective == "kto":
            nothing = torch.zeros_like(summed)
            return Likelihoods(summed, nothing, tokens, tokens, first, None, inputs[DESIRABLE])
        answer, other = summed.chunk(2)
        answer_tokens, other_tokens = tokens.chunk(2)
        return Likelihoods(answer, other, answer_tokens, other_tokens, first, second)

    def _other_ratio(self, batch: dict[str, Any]) -> torch.Tensor:
        """Log-ratios [rows] of a batch's answers to other prompts, which it needs no longer afterwards."""
        sequences = self._prepare_inputs({name: batch.pop(f"other_{name}") for name in _SEQUENCES})
        summed, _ = self._summed(self.model, sequences)
        return summed - batch["reference"][:, 1].to(summed)

    def _summed(self, model: Any, sequences: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-likelihood of each sequence's answer, and its tokens, both [sequences]."""
        labels = sequences["labels"]
        tokens = (labels[:, 1:] != IGNORED).sum(dim=1)
        if makes_logits_whole(self.model, labels):
            others = {name: value for name, value in sequences.items() if name != "labels"}
            return row_log_likelihoods(model, others, labels), tokens
        outputs = model(**sequences, use_cache=False, fused_lm_head=True)
        return outputs.log_probs.sum(dim=1), tokens

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Without gradients and dropout."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                yield
        finally:
            self.model.train(training)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the rewards since the last log."""
        if "loss" in logs and self._since_log:
            logs |= _rewards(_joined(self._since_log), paired=self.objective != "kto")
            self._since_log.clear()
        super().log(logs, start_time)

    # -- evaluation ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _evaluated(self, batch: dict[str, Any]) -> torch.Tensor:
        """Likelihoods of a batch, float64 [rows, columns]: as `_judged` reads them."""
        batch.pop("real_tokens")
        with self.accelerator.autocast():  # as in StageTrainer
            other = self._other_ratio(batch) if self.objective == "kto" else None
            found = self._likelihoods(self.model, self._prepare_inputs(batch))
        columns = [found.answer_ratio, found.other_ratio if other is None else other]
        columns += [found.answer_tokens, found.other_tokens]
        columns += [] if found.desirable is None else [found.desirable]
        return torch.stack([column.double() for column in columns], dim=1).cpu()

    def _eval_metrics(self, table: torch.Tensor) -> dict[str, float]:
        """eval_loss is the objective's own, per row; of KTO with the divergence over all held-out rows."""
        answer, other, answer_tokens, other_tokens = table[:, :4].unbind(dim=1)
        desirable = table[:, 4].bool() if table.shape[1] > 4 else None
        likelihoods = Likelihoods(answer, other, answer_tokens, other_tokens, desirable=desirable)
        judged = judge(self.objective, likelihoods, self.run.spec.training.beta, divergence_of(other))
        rewards = _rewards(judged, paired=desirable is None)
        return {"eval_loss": float(judged.losses.mean()), **{f"eval_{name}": rewards[name] for name in rewards}}


def _detached(judged: Judged) -> Judged:
    return Judged(*(value.detach().cpu() for value in vars(judged).values()))


def _joined(parts: list[Judged]) -> Judged:
    return Judged(*(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


def _rewards(judged: Judged, *, paired: bool) -> dict[str, float]:
    """Mean distance of rewards, and the share of rows in which they are in the right order.

    Of single answers: wanted ones' mean reward less unwanted ones', where there are both.
    """
    found = {ACCURACIES: float(judged.right.double().mean())}
    if paired:
        found[MARGINS] = float((judged.rewards - judged.other_rewards).mean())
    elif 0 < int(judged.wanted.sum()) < len(judged.wanted):
        found[MARGINS] = float(judged.rewards[judged.wanted].mean() - judged.rewards[~judged.wanted].mean())
    return found
