"""What the API server accepts and refuses of a FineTuneJob, in which words, and that Python judges alike."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from apiserver.job_api import JobApi
from finetune_api.v1alpha1 import FineTuneJob
from job_documents import (
    ACCEPTED,
    REFUSED,
    REMOVED,
    Case,
    Document,
    changed,
    complete,
    smallest,
)
from local_cluster.control_plane import ControlPlane

pytestmark = pytest.mark.apiserver


@pytest.fixture(scope="module")
def jobs(control_plane: ControlPlane) -> JobApi:
    return JobApi.install(control_plane, "crd-admission")


def test_the_smallest_job_comes_back_with_every_default(jobs: JobApi) -> None:
    stored = jobs.try_create(smallest())
    want_spec = FineTuneJob.model_validate(smallest()).spec.to_json()
    assert stored.document["spec"] == want_spec


@pytest.mark.parametrize("document", complete().values(), ids=complete())
def test_a_job_that_sets_everything_is_stored_as_it_was_written(jobs: JobApi, document: Document) -> None:
    stored = jobs.try_create(document)
    assert stored.accepted, stored.message
    want_spec = FineTuneJob.model_validate(document).spec.to_json()
    assert stored.document["spec"] == want_spec


def test_a_job_that_sets_everything_leaves_no_field_out(jobs: JobApi) -> None:
    (version,) = _crd(jobs)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    unset = set(_paths(schema)) - {
        path for document in complete().values() for path in _set_paths(document["spec"], schema)
    }
    assert unset == {".training.maxSteps"}


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_the_api_server_accepts(jobs: JobApi, case: Case) -> None:
    answer = jobs.try_create(case.document())
    assert answer.accepted, answer.message


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_the_api_server_refuses(jobs: JobApi, case: Case) -> None:
    answer = jobs.try_create(case.document())
    assert answer.code in (400, 422)
    assert case.want_message in answer.message


_CHOICES: dict[str, list[Any]] = {
    "spec.task": ["chat", "extraction", "preference"],
    "spec.training.objective": ["sft", "dpo"],
    "spec.training.epochs": [None, 1],
    "spec.training.maxSteps": [None, 5],
    "spec.method.type": ["full", "lora", "qlora", "adapter"],
    "spec.method.rankStabilized": [False, True],
    "spec.method.initialization": ["default", "pissa", "loftq"],
    "spec.method.modulesToSave": [[], ["lm_head"]],
    "spec.method.quantization": [None, {}, {"bits": 8}],
    "spec.method.adapters": [
        [],
        [{"name": "a", "dataset": {"source": "hf://a/b"}}],
        [{"name": "a", "dataset": {"source": "hf://a/b"}, "eval": {"source": "hf://a/b"}, "rank": 2}],
    ],
    "spec.dataset.train": [REMOVED, {"source": "hf://a/b"}],
    "spec.distributed.strategy": ["auto", "none", "deepspeed"],
    "spec.distributed.zeroStage": [2, 3],
    "spec.distributed.nodes": [1, 2],
    "spec.distributed.minNodes": [None, 1, 2],
    "spec.dataset.evalFraction": [0, 0.1],
    "spec.dataset.eval": [None, {"source": "hf://a/b"}],
    "spec.evaluation.baseline": [True, False],
    "spec.evaluation.gates": [
        [],
        [{"metric": "f1", "atLeast": 1}],
        [{"metric": "eval_loss", "improvesBaselineBy": 0.1}],
        [{"metric": "rouge1"}],
    ],
    "spec.exports": [
        [],
        [{"name": "a", "format": "peft"}],
        [{"name": "a", "format": "safetensors"}, {"name": "a", "format": "onnx"}],
    ],
}


_FIELDS = st.lists(st.sampled_from(sorted(_CHOICES)), max_size=6, unique=True)
_CHANGES = _FIELDS.flatmap(
    lambda paths: st.fixed_dictionaries({path: st.sampled_from(_CHOICES[path]) for path in paths})
)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
@given(changes=_CHANGES)
def test_both_halves_of_the_rules_give_the_same_verdict(jobs: JobApi, changes: dict[str, Any]) -> None:
    document = changed(smallest(), changes)
    answer, messages = jobs.try_create(document), _messages_of_python(document)
    assert answer.accepted == (not messages), answer.message
    assert [message for message in messages if message not in answer.message] == []


def _messages_of_python(document: Document) -> list[str]:
    try:
        FineTuneJob.model_validate(document)
    except ValidationError as refusal:
        return [str(error["ctx"]["error"]) for error in refusal.errors()]
    return []


def _crd(jobs: JobApi) -> Document:
    client = jobs.plane.client()
    document: Document = client.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.slmops.dev")
    return document


def _paths(schema: Document, path: str = "") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from _paths(field, f"{path}.{name}")
        yield from _paths(field.get("items", {}), f"{path}.{name}")


def _set_paths(value: Any, schema: Document, path: str = "") -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _set_paths(item, schema.get("items", {}), path)
        return
    for name, field in schema.get("properties", {}).items():
        if name in value:
            yield f"{path}.{name}"
            yield from _set_paths(value[name], field, f"{path}.{name}")
