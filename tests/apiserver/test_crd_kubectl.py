"""What a person sees of FineTuneJobs with kubectl alone."""

import pytest

from apiserver.job_api import JobApi
from finetune_api.status import FineTuneJobStatus, Metrics, Phase, Progress, Stage
from job_documents import PREFERENCE, changed, smallest
from local_cluster.control_plane import ControlPlane

pytestmark = pytest.mark.apiserver

_MODEL = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def jobs(control_plane: ControlPlane) -> JobApi:
    api = JobApi.install(control_plane, "crd-kubectl")
    api.create(smallest("training"))
    api.create(changed(smallest("suspended"), PREFERENCE | {"spec.policy.suspend": True, "spec.method.type": "full"}))
    answer = api.write_status("training", _status().to_json())
    assert answer.accepted, answer.message
    return api


def _status() -> FineTuneJobStatus:
    return FineTuneJobStatus(
        phase=Phase.TRAINING,
        message="step 120 of 480",
        progress=Progress(stage=Stage.TRAIN, step=120, total_steps=480, percent=25, seconds_left=240),
        metrics=Metrics(loss=1.83, eval_loss=1.9),
    )


def test_get_shows_where_a_job_stands(jobs: JobApi) -> None:
    heads, row = jobs.kubectl("get", "ftj", "training").splitlines()
    assert heads.split() == ["NAME", "PHASE", "METHOD", "MODEL", "PROGRESS%", "LOSS", "EVAL", "ETA(S)", "AGE"]
    assert row.split()[:-1] == ["training", "Training", "lora", _MODEL, "25", "1.83", "1.9", "240"]


def test_get_wide_adds_nodes_attempts_and_message(jobs: JobApi) -> None:
    heads, row = jobs.kubectl("get", "ftj", "training", "-o", "wide").splitlines()
    assert heads.split()[-3:] == ["NODES", "ATTEMPTS", "MESSAGE"]
    assert row.split()[-6:] == ["1", "0", "step", "120", "of", "480"]


def test_the_category_lists_the_jobs(jobs: JobApi) -> None:
    assert "finetunejob.slmops.dev/training" in jobs.kubectl("get", "finetune", "-o", "name").split()


@pytest.mark.parametrize(
    ("path", "want_text"),
    [
        ("finetunejob", "Tunes, evaluates and exports a language model."),
        ("finetunejob.spec.method.rank", "Rank of the low-rank update."),
        ("finetunejob.spec.training.learningRate", "Peak learning rate, or auto: by method and objective."),
        ("finetunejob.spec.dataset.packing", "ENUM:\n    true\n    false\n    auto\n"),
        ("finetunejob.spec.model", "-required-"),
        ("finetunejob.status.progress.percent", "100 * step / totalSteps, rounded down."),
    ],
)
def test_explain_reads_like_a_manual(jobs: JobApi, path: str, want_text: str) -> None:
    assert want_text in jobs.kubectl("explain", path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("spec.method.type", "full"), ("spec.policy.suspend", "true"), ("spec.task", "preference")],
)
def test_jobs_are_found_by_field(jobs: JobApi, field: str, value: str) -> None:
    assert jobs.names_where(field, value) == ["suspended"]
