"""The FineTuneJob resource of slmops.dev/v1alpha1."""

from typing import Any, Literal

from finetune_api.names import API_VERSION, KIND
from finetune_api.rules import ApiModel
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
