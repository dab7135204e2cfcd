"""The FineTuneJob resource of slmops.dev/v1alpha1."""

from typing import Any, Literal

from finetune_api.names import API_VERSION, KIND
from finetune_api.rules import ApiModel, Rule
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus


class FineTuneJob(ApiModel):
    """Tunes, evaluates and exports a language model."""

    api_version: Literal["slmops.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["FineTuneJob"] = KIND  # type: ignore[assignment]
    metadata: dict[str, Any] = {}
    spec: FineTuneJobSpec
    """What to tune, on what, how, and where the result goes."""
    status: FineTuneJobStatus = FineTuneJobStatus()
    """What the job reports."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What a name must be so that labels can carry it."""
        return (
            Rule(
                "self.metadata.name.size() <= 63",
                "metadata.name must have at most 63 characters, because it labels the job's pods; shorten it",
                lambda job: len(job.metadata.get("name", "")) <= 63,
            ),
        )
