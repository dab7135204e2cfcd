"""A run on Weights & Biases, with the job's uid as its id."""

import os
from typing import Any

from finetune_api.spec import WandbReporting
from finetune_trainer.run import Run

START_SECONDS = 30


class WandbTracker:
    """Talks through the wandb package, which reads WANDB_API_KEY, and WANDB_MODE=offline, from the environment."""

    name = "Weights & Biases"

    def __init__(self, run: Run, reporting: WandbReporting) -> None:
        self._job = run.request.job
        self._reporting = reporting
        self._folder = run.workspace.root / "wandb"
        self._run: Any = None

    def begin(self, settings: dict[str, str]) -> None:
        """Open the run, or go on with it."""
        cache = str(self._folder / "cache")
        os.environ.update(WANDB_CACHE_DIR=cache, WANDB_CONFIG_DIR=cache, WANDB_DATA_DIR=cache)
        os.environ.update(WANDB_ERROR_REPORTING="false")
        if self._reporting.base_url:
            os.environ["WANDB_BASE_URL"] = self._reporting.base_url
        self._folder.mkdir(parents=True, exist_ok=True)
        import wandb

        quiet = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=START_SECONDS,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        self._run = wandb.init(
            project=self._reporting.project,
            name=self._job.name,
            id=self._job.uid,
            resume="allow",
            dir=str(self._folder),
            config={**settings, "namespace": self._job.namespace},
            settings=quiet,
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict[str, float]) -> None:
        """One row of the history. The step is a column: a run's own counter cannot go back, as a resumed job does."""
        self._run.log({**values, "step": step})

    def describe(self, facts: dict[str, str]) -> None:
        """As the summary of the run."""
        self._run.summary.update(facts)

    def end(self, outcome: str | None) -> None:
        """Finish this part of the run; a failed job is marked as one."""
        self._run.finish(exit_code=1 if outcome == "Failed" else 0)
