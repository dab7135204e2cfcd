"""What may change in an accepted job, and what may not."""

from typing import Any

import pytest
import yaml

from apiserver.job_api import JobApi
from finetune_api.spec import FineTuneJobSpec
from job_documents import changed, everything, smallest
from local_cluster.control_plane import ControlPlane

pytestmark = pytest.mark.apiserver

_IMMUTABLE: dict[str, Any] = {
    "task": "completion",
    "model.source": "hf://org/other",
    "model.revision": None,
    "model.credentials.secretRef": "other",
    "dataset.train.split": "train",
    "dataset.eval": None,
    "dataset.packing": False,
    "dataset.maxLength": "auto",
    "dataset.columns.text": "title",
    "dataset.columns.extra": "more",
    "method.rank": 9,
    "method.targetModules": ["q_proj"],
    "method.quantization": None,
    "method.adapters": [{"name": "a", "dataset": {"source": "hf://a/b"}}],
    "training.learningRate": 0.0003,
    "training.gradientCheckpointing": "auto",
    "training.epochs": 2,
    "training.extra.adam_beta2": 0.9,
    "training.extra.nested.list": [1],
    "training.extra.more": 1,
    "distributed.nodes": 3,
    "resources.cpu": "31",
    "resources.nodeSelector.more": "x",
    "evaluation.metrics": ["f1"],
    "evaluation.gates": [],
    "exports": [],
    "output.workspace.size": "60Gi",
    "reporting.wandb": None,
    "policy.retries": 6,
    "policy.hangTimeoutSeconds": 601,
    "policy.cost.budget": "30",
    "policy.cost": None,
    "dryRun": False,
}
_MUTABLE: dict[str, Any] = {
    "policy.suspend": False,
    "policy.activeDeadlineSeconds": 5,
    "policy.ttlSecondsAfterFinished": None,
}


@pytest.fixture(scope="module")
def jobs(control_plane: ControlPlane) -> JobApi:
    api = JobApi.install(control_plane, "crd-immutability")
    api.create(everything())
    api.create(smallest())
    return api


@pytest.mark.parametrize("path", _IMMUTABLE)
def test_an_accepted_job_does_not_change(jobs: JobApi, path: str) -> None:
    answer = jobs.merge("everything", changed({}, {f"spec.{path}": _IMMUTABLE[path]}))
    assert answer.code == 422
    parts = path.split(".")
    want_field = ".".join(parts[:2]) if parts[0] == "policy" else parts[0]
    want_message = f"spec.{want_field} is immutable once the job is accepted; create a new FineTuneJob to change it"
    assert want_message in answer.message


def test_a_write_of_the_status_opens_no_way_to_change_the_spec(jobs: JobApi) -> None:
    jobs.create(smallest("watched"))
    for moment in ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"):
        assert jobs.write_status("watched", {"phase": "Preparing", "lastUpdateTime": moment}).accepted
    later = {"phase": "Preparing", "lastUpdateTime": "2026-01-01T00:00:02Z"}
    answer = jobs.merge("watched", {"spec": {"method": {"rank": 3}}, "status": later})
    assert "spec.method is immutable" in answer.message
    written = jobs.write_status("watched", later, spec={"method": {"rank": 3}})
    assert written.document["spec"]["method"]["rank"] == 16


@pytest.mark.parametrize("path", _MUTABLE)
def test_three_fields_of_policy_may_change(jobs: JobApi, path: str) -> None:
    answer = jobs.merge("everything", changed({}, {f"spec.{path}": _MUTABLE[path]}))
    assert answer.accepted, answer.message


def test_every_section_of_the_spec_is_tried(jobs: JobApi) -> None:
    tried = {path.partition(".")[0] for path in _IMMUTABLE}
    assert tried == set(jobs.get("everything")["spec"])
    assert tried == {field.alias for field in FineTuneJobSpec.model_fields.values()}


@pytest.mark.parametrize("path", ["dataset.eval", "model.revision", "policy.cost"])
def test_an_absent_field_cannot_be_added(jobs: JobApi, path: str) -> None:
    values: dict[str, Any] = {"dataset.eval": {"source": "hf://a/b"}, "policy.cost": {"perHour": "1"}}
    answer = jobs.merge("support-bot", changed({}, {f"spec.{path}": values.get(path, "main")}))
    assert "is immutable once the job is accepted" in answer.message


@pytest.mark.parametrize(
    "document", [smallest("applied-small"), everything("applied-large")], ids=["smallest", "everything"]
)
@pytest.mark.parametrize("options", [(), ("--server-side",)], ids=["client", "server"])
def test_the_same_manifest_applied_again_changes_nothing(
    jobs: JobApi, document: dict[str, Any], options: tuple[str, ...]
) -> None:
    name = f"{document['metadata']['name']}-{'server' if options else 'client'}"
    manifest = yaml.safe_dump(changed(document, {"metadata.name": name}))
    jobs.kubectl("apply", *options, "-f", "-", stdin=manifest)
    before = jobs.get(name)
    jobs.kubectl("apply", *options, "-f", "-", stdin=manifest)
    assert jobs.get(name)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_a_default_written_out_is_no_change(jobs: JobApi) -> None:
    answer = jobs.merge("support-bot", {"spec": {"method": {"rank": 16, "alpha": 32.0, "targetModules": "auto"}}})
    assert answer.accepted, answer.message


def test_labels_and_finalizers_may_change(jobs: JobApi) -> None:
    answer = jobs.merge("everything", {"metadata": {"labels": {"team": "a"}, "finalizers": ["example.org/keep"]}})
    assert answer.accepted, answer.message
