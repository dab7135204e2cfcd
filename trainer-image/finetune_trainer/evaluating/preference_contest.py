"""An evaluation of preferences: the tuned model against the untouched one, which the loss may need. Must not judge."""

from collections.abc import Sequence

from finetune_trainer.evaluating.generating import stop_ids
from finetune_trainer.evaluating.measuring import Measurement
from finetune_trainer.evaluating.models import Contestants
from finetune_trainer.evaluating.preferences import PreferenceTask, measurement, opinion
from finetune_trainer.evaluating.records import keep_samples
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.models.load import load_tokenizer
from finetune_trainer.run import Run


def contest(run: Run, rows: Sequence[EvalRow], metrics: Sequence[str]) -> tuple[Measurement, Measurement | None]:
    """Measurements of the tuned model and of the baseline, which may not be wanted; keeps samples of both."""
    contestants = Contestants(run)
    tokenizer = load_tokenizer(run.workspace.tuned)
    task = PreferenceTask(
        rows,
        metrics,
        tokenizer,
        stop_ids(contestants.tuned, tokenizer, rows),
        run.spec.evaluation.generation.max_new_tokens,
        objective=run.spec.training.objective,
        beta=run.spec.training.beta,
    )
    compared = run.spec.evaluation.baseline
    found, reference = contestants.asked(opinion, task, baseline=compared or task.needs_reference)
    tuned = measurement(task, found, reference)
    baseline = measurement(task, reference, reference) if reference is not None and compared else None
    keep_samples(run.workspace, task, tuned, baseline)
    return tuned, baseline
