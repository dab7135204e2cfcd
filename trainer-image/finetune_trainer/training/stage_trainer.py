# ruff: noqa: ANN401, ARG002 - the signatures are those of transformers
"""TRL's SFTTrainer with our batches and loss, checkpoints that can be trusted, and a token-exact evaluation.

Decides how a step, an evaluation and a save are done; when they are due is decided by the arguments. Must not decide
how the run ends (stages/train.py).
"""

import errno
import math
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from transformers import TrainerControl

from finetune_trainer.errors import NotSupportedError, OutputUnwritableError
from finetune_trainer.evaluating.rows import batches
from finetune_trainer.models.adapters import trainable
from finetune_trainer.run import Run
from finetune_trainer.training import guards
from finetune_trainer.training.checkpoints import PREFIX, CheckpointStore
from finetune_trainer.training.loss import makes_logits_whole, supervised_loss
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.rows import IGNORED, LengthGroupedSampler, lengths_of, load_rows, supervised_counts
from finetune_trainer.training.sft_trainer import SFTTrainer
from finetune_trainer.training.token_losses import TokenLoss, plain, token_loss

STATE = "trainer_state.json"
UNREAD = ("training_args.bin", "README.md")
"""What the libraries add to a checkpoint and nobody reads: a pickle and a model card."""
LARGEST_EXPONENT = 700.0
_FULL = ("No space left", "Disk quota exceeded", "file write failed", "unexpected pos")


class StageTrainer(SFTTrainer):
    """The trainer of stage train, for one process."""

    loss_is_scaled_for_ga = True
    control: TrainerControl

    def __init__(self, run: Run, store: CheckpointStore, preemption: Preemption, **arguments: Any) -> None:
        self.run = run
        self.store = store
        self.preemption = preemption
        self.real_tokens = 0
        self._step_loss = torch.zeros(())
        exact = {name: parameter.data for name, parameter in trainable(arguments["model"]).items()}
        super().__init__(**arguments)
        for name, parameter in trainable(self.model).items():
            parameter.data = exact[name].to(parameter.device)  # TRL rounds the adapter of a quantized base to bf16
        self.start = guards.fingerprints(self.model)
        self.of_tokens = token_loss(run.spec.training.loss, self._token_counts)
        if self.aux_loss_enabled and self.of_tokens is not plain:
            raise NotSupportedError(
                "training.loss: a mixture of experts adds the load of its experts to the default loss only; remove it"
            )

    def _token_counts(self) -> torch.Tensor:
        rows = load_rows(self.run.workspace.train_rows)
        return supervised_counts(rows, self.model.config.get_text_config().vocab_size)

    # -- batches and loss ---------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthGroupedSampler:
        rows = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler(self._lengths(rows), self.run.plan.training.batch_size, self.args.seed)

    def _lengths(self, rows: Dataset) -> list[int]:
        """Tokens of each row, by which rows are grouped."""
        return lengths_of(rows)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss per supervised token of the whole step, so that gradients do not depend on how it is cut."""
        inputs.pop("real_tokens", None)
        if self.aux_loss_enabled or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, count = self._trained(model, inputs)
        items = count if num_items_in_batch is None else num_items_in_batch
        return total / torch.as_tensor(items, device=total.device).clamp(min=1)

    def _trained(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed loss that is minimised, and number of supervised tokens of a batch."""
        return self._nll(model, inputs) if self.of_tokens is plain else self._whole(model, inputs, self.of_tokens)

    def _whole(self, model: Any, inputs: dict[str, Any], of_tokens: TokenLoss) -> tuple[torch.Tensor, torch.Tensor]:
        labels = inputs["labels"]
        others = {name: value for name, value in inputs.items() if name != "labels"}
        return supervised_loss(model, others, labels, of_tokens), (labels[:, 1:] != IGNORED).sum()

    def _nll(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed negative log-likelihood and number of supervised tokens of a batch."""
        if makes_logits_whole(self.model, inputs["labels"]):
            return self._whole(model, inputs, plain)
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        return -outputs.log_probs.sum(), outputs.label_mask.sum()

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> torch.Tensor:
        """One forward and backward pass; counts the real tokens."""
        self.real_tokens += inputs["real_tokens"]
        loss = super().training_step(model, inputs, *arguments, **options)
        self._step_loss = self._step_loss.to(loss.device) + loss
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Norm before clipping, checked before the optimizer can spread what is not finite into the weights."""
        norm = super()._get_grad_norm(model, grad_norm)
        step = self.state.global_step + 1
        loss, self._step_loss = float(self._step_loss), torch.zeros(())
        guards.require_finite("the loss", loss, step)
        if not self.args.fp16:  # the gradient scaler of fp16 skips such a step by itself, and lowers its scale
            guards.require_finite("the gradient norm", float(norm), step)
        return norm

    # -- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self, *_arguments: Any, **_options: Any) -> dict[str, float]:
        """eval_loss in nats per supervised token of all held-out rows, in memory that does not grow with their number.

        Ends early with no metric when the pod is asked to stop: the evaluation is owed, and made up for on resume.
        Draws no random number, so that training goes on as if it had not been.
        """
        tables = []
        self.model.eval()
        for batch in self._eval_batches():
            if self.preemption.requested:
                self._stop_with_checkpoint()
                return {}
            tables.append(self._evaluated(batch))
        return self._evaluation_done(self._eval_metrics(torch.cat(tables)))

    @torch.no_grad()
    def _evaluated(self, batch: dict[str, Any]) -> torch.Tensor:
        """Statistics of a batch, float64 [1, 2]: summed loss and supervised tokens."""
        batch.pop("real_tokens")
        with self.accelerator.autocast():  # which wraps the model itself only once training has begun
            total, count = self._nll(self.model, self._prepare_inputs(batch))
        return torch.stack([total, count]).double().cpu()[None]

    def _eval_metrics(self, table: torch.Tensor) -> dict[str, float]:
        """Metrics of what `_evaluated` gave for all batches; eval_loss among them."""
        total, count = table.sum(dim=0)
        loss = float(total / count.clamp(min=1))
        return {"eval_loss": loss, "eval_perplexity": math.exp(min(loss, LARGEST_EXPONENT))}

    def _evaluation_done(self, metrics: dict[str, float]) -> dict[str, float]:
        guards.require_finite("eval_loss", metrics["eval_loss"], self.state.global_step)
        self.log(dict(metrics))
        stopping = self.control.should_training_stop
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.control.should_training_stop and not stopping:
            self.control.should_save = True  # early stopping: the end of this run must be on disk
        return metrics

    def _eval_batches(self) -> Any:
        """Held-out rows, longest first, in batches of no more tokens than those of training: memory was planned so."""
        rows, size = self.eval_dataset, self.args.per_device_eval_batch_size
        tokens = size * self._longest_train_row
        return (self.data_collator([rows[i] for i in batch]) for batch in batches(self._lengths(rows), tokens, size))

    @cached_property
    def _longest_train_row(self) -> int:
        return max(self._lengths(self.train_dataset))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any = None) -> bool:
        """A best evaluation is saved at once: loadBest needs its weights."""
        if not metrics:
            return False
        improved = super()._determine_best_metric(metrics, trial)
        if improved and self.run.spec.training.load_best:
            self.control.should_save = True
        return bool(improved)

    def owes_evaluation(self) -> bool:
        """Whether the last step is an evaluation's, and that has not been."""
        every, step = self.run.plan.training.eval_every, self.state.global_step
        if not every or not step or step % every:
            return False
        return not any("eval_loss" in entry and entry["step"] == step for entry in self.state.log_history)

    def make_up_for_evaluation(self) -> None:
        """Evaluate now when the resumed checkpoint was saved at an evaluation's step and before it."""
        if self.owes_evaluation():
            self._determine_best_metric(self.evaluate())

    def require_learning(self) -> None:
        """Raises LearnedNothingError unless the trained weights differ from those that training started from."""
        guards.require_learning(self.model, self.run.workspace.model, self.start)

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _stop_with_checkpoint(self) -> None:
        self.control.should_save = True
        self.control.should_training_stop = True

    def _get_output_dir(self, trial: Any = None) -> str:
        return str(self._staging if self._staging is not None else self.store.root)

    _staging: Path | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save aside, verify, then publish. Raises OutputUnwritableError when the volume does not take it."""
        step = self.state.global_step
        guards.require_finite_weights(self.model, step)
        try:
            self._staging = self.store.staging(step)
            super()._save_checkpoint(model, trial)
            self._tidy(self._staging / f"{PREFIX}{step}")
            found = self.store.commit(step, finished=self._is_finished(), protect=self._protected())
        except (OSError, SafetensorError, RuntimeError) as error:
            if not isinstance(error, OSError) and not _is_full(error):
                raise
            raise self._unwritable(error, step) from error
        finally:
            if self._staging is not None:
                shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        self.run.progress.update(step, self.state.max_steps, checkpoint=found.report)

    def _tidy(self, staged: Path) -> None:
        for name in UNREAD:
            (staged / name).unlink(missing_ok=True)
        # The path of the best checkpoint follows from its step; a stored one would be that of the staging folder.
        self.state.best_model_checkpoint = None
        self.state.save_to_json(str(staged / STATE))

    def _is_finished(self) -> bool:
        stopped_early = self.control.should_training_stop and not self.preemption.requested
        return stopped_early or self.state.global_step >= self.state.max_steps

    def _protected(self) -> set[int]:
        best = self.state.best_global_step
        return {best} if best and self.run.spec.training.load_best else set()

    def _unwritable(self, error: Exception, step: int) -> OutputUnwritableError:
        size = self.run.spec.output.workspace.size
        cause = "the workspace is full" if _is_full(error) else "the workspace cannot be written"
        return OutputUnwritableError(
            f"{cause}: the checkpoint of step {step} was not saved ({error}). "
            f"Raise output.workspace.size (now {size}) or lower training.keepCheckpoints; earlier checkpoints are whole"
        )

    def create_model_card(self, *_arguments: Any, **_options: Any) -> None:
        """None: what a checkpoint is stands in its manifest."""

    def _send_telemetry(self) -> None:
        """Nothing about a job leaves the pod."""


def _is_full(error: Exception) -> bool:
    """safetensors and torch report a full volume in words of their own, without errno."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(text in str(error) for text in _FULL)
