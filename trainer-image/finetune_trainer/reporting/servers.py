"""The tracking servers that a job names."""

from finetune_trainer.reporting.mlflow_tracker import MlflowTracker
from finetune_trainer.reporting.tracking import Tracker
from finetune_trainer.reporting.wandb_tracker import WandbTracker
from finetune_trainer.run import Run


def trackers_of(run: Run) -> list[Tracker]:
    """One tracker for each server of spec.reporting."""
    reporting = run.spec.reporting
    found: list[Tracker] = []
    if reporting.mlflow:
        found.append(MlflowTracker(run, reporting.mlflow))
    if reporting.wandb:
        found.append(WandbTracker(run, reporting.wandb))
    return found
