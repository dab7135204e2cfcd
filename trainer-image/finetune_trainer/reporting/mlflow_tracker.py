"""A run on an MLflow tracking server, found again by the job's uid."""

import os
import time
from typing import Any

from finetune_api.names import LABEL_JOB_NAME, LABEL_JOB_UID
from finetune_api.spec import MlflowReporting
from finetune_trainer.run import Run

REQUEST_SECONDS, RETRIES = 10, 2
_STATUS = {None: "RUNNING", "Succeeded": "FINISHED", "Failed": "FAILED"}


class MlflowTracker:
    """Talks through MLflow's own client, which reads MLFLOW_TRACKING_TOKEN and the like from the environment."""

    name = "MLflow"

    def __init__(self, run: Run, reporting: MlflowReporting) -> None:
        self._job = run.request.job
        self._reporting = reporting
        self._client: Any = None
        self._id = ""

    def begin(self, settings: dict[str, str]) -> None:
        """Find the job's run in the experiment, or create both."""
        os.environ.update(
            MLFLOW_HTTP_REQUEST_TIMEOUT=str(REQUEST_SECONDS),
            MLFLOW_HTTP_REQUEST_MAX_RETRIES=str(RETRIES),
            MLFLOW_DISABLE_TELEMETRY="true",
        )
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=self._reporting.tracking_uri)
        self._id = self._found(self._experiment())
        self._client.update_run(self._id, status=_STATUS[None])
        self._client.log_batch(self._id, params=[Param(key, value) for key, value in settings.items()])

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self._reporting.experiment
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another job has made it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _found(self, experiment: str) -> str:
        wanted = f"tags.`{LABEL_JOB_UID}` = '{self._job.uid}'"
        runs = self._client.search_runs([experiment], wanted, max_results=1)
        if runs:
            return str(runs[0].info.run_id)
        tags = {LABEL_JOB_UID: self._job.uid, LABEL_JOB_NAME: self._job.name, "namespace": self._job.namespace}
        return str(self._client.create_run(experiment, tags=tags, run_name=self._job.name).info.run_id)

    def log(self, step: int, values: dict[str, float]) -> None:
        """One request for all `values`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def describe(self, facts: dict[str, str]) -> None:
        """As tags of the run."""
        from mlflow.entities import RunTag

        self._client.log_batch(self._id, tags=[RunTag(key, value) for key, value in facts.items()])

    def end(self, outcome: str | None) -> None:
        """Set the status of the run."""
        self._client.update_run(self._id, status=_STATUS[outcome])
