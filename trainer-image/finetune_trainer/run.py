"""A Run: what one call of a stage works with. The only reader of the environment and of the mount layout."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

from finetune_api.contract import StageRequest, StageResult
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Checkpoint, HistoryPoint, Metrics, Plan, Stage
from finetune_trainer.errors import SourceNotFoundError


class ProgressUpdate(TypedDict, total=False):
    """What may be said besides the step; what is absent or None stays as it was."""

    epoch: float | None
    seconds_left: int | None
    metrics: Metrics | None
    point: HistoryPoint | None
    """Appended to the curve."""
    checkpoint: Checkpoint | None
    adapter: str | None
    """Of several adapters the one that is worked on."""


class ProgressSink(Protocol):
    """Where a stage says how far it is; cheap enough to call at every step."""

    def update(self, step: int, total_steps: int, **told: Unpack[ProgressUpdate]) -> None:
        """Report `step` of `total_steps`."""


@dataclass(frozen=True)
class Workspace:
    """Layout of the job's own volume. Of several adapters each has what is its own in a folder of the same layout."""

    root: Path
    adapter: str = ""
    """The one of method.adapters whose files are meant; empty for those of the whole job."""

    @property
    def folder(self) -> Path:
        """What is made for this adapter, or for the whole job."""
        return self.root / "adapters" / self.adapter if self.adapter else self.root

    @property
    def plan(self) -> Path:
        """Plan as JSON, written by prepare."""
        return self.folder / "plan.json"

    @property
    def model(self) -> Path:
        """Base model as a Hugging Face folder with safetensors: a link into a claim, or a copy; shared by adapters."""
        return self.root / "model"

    @property
    def train_rows(self) -> Path:
        """Arrow dataset: input_ids list[int32], completion_mask list[int8] (1 where the token carries loss)."""
        return self.folder / "data" / "train"

    @property
    def eval_rows(self) -> Path:
        """Arrow dataset as train_rows, and prompt_ids list[int32], reference str. Absent without held-out rows."""
        return self.folder / "data" / "eval"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoint-<step> folders."""
        return self.folder / "checkpoints"

    @property
    def continued(self) -> Path:
        """The adapter that the job continues, as it came; absent when a new one is started."""
        return self.root / "continued"

    @property
    def start_values(self) -> Path:
        """Folder with the start of an adapter that does not start at zero: <digest of the run>.safetensors."""
        return self.folder / "start"

    @property
    def tuned(self) -> Path:
        """What training made: a PEFT adapter, or a whole model for full tuning; with the tokenizer."""
        return self.folder / "tuned"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files; of several adapters in a folder each, which TensorBoard shows as runs."""
        return self.root / "tensorboard" / self.adapter

    @property
    def artifacts(self) -> Path:
        """Artefacts of a job without a destination."""
        return self.root / "artifacts"

    def result(self, stage: Stage) -> Path:
        """StageResult of a stage that has ended, whole."""
        return self.results / f"{stage}.json"

    @property
    def results(self) -> Path:
        """Folder of what stages have found out."""
        return self.folder / "results"


@dataclass(frozen=True)
class Run:
    """One call of a stage."""

    request: StageRequest
    workspace: Workspace
    claim_path: Callable[[str], Path]
    """Folder where the claim of a pvc:// URI is mounted."""
    progress: ProgressSink
    termination_log: Path | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def spec(self) -> FineTuneJobSpec:
        """The job's spec."""
        return self.request.spec

    @property
    def threads(self) -> int:
        """Threads for computation: the pod's cores, a part of one counted whole; else the machine's."""
        limit = self.request.cpu_limit
        cores = len(os.sched_getaffinity(0))
        return min(cores, math.ceil(limit)) if limit else cores

    @property
    def rank(self) -> int:
        """Rank of this process."""
        return int(self.environment.get("RANK", "0"))

    @cached_property
    def plan(self) -> Plan:
        """The plan that prepare wrote."""
        try:
            return Plan.model_validate_json(self.workspace.plan.read_bytes())
        except FileNotFoundError:
            raise SourceNotFoundError(f"{self.workspace.plan} is missing: stage prepare must run first") from None

    def local_path(self, uri: str) -> Path:
        """Path of a pvc://claim/path URI."""
        claim, _, path = uri.removeprefix("pvc://").partition("/")
        return self.claim_path(claim) / path

    def stored_result(self, stage: Stage) -> StageResult | None:
        """The result of a stage that ended well for this very job, if there is one."""
        path = self.workspace.result(stage)
        return StageResult.model_validate_json(path.read_bytes()) if path.exists() else None
