"""The status subresource keeps every field of the status model, and nobody writes status through the main resource."""

from collections.abc import Iterator
from typing import Any

import pytest

from apiserver.job_api import JobApi
from finetune_api.schema import structural
from finetune_api.status import FineTuneJobStatus
from job_documents import smallest
from local_cluster.control_plane import ControlPlane
from reported_status import full_status

pytestmark = pytest.mark.apiserver


@pytest.fixture(scope="module")
def jobs(control_plane: ControlPlane) -> JobApi:
    return JobApi.install(control_plane, "crd-status")


def test_a_new_job_has_no_status(jobs: JobApi) -> None:
    assert "status" not in jobs.create(smallest("new"))


def test_every_field_of_status_comes_back_as_it_was_written(jobs: JobApi) -> None:
    jobs.create(smallest("reporting"))
    want_status = full_status()
    answer = jobs.write_status("reporting", want_status.to_json())
    assert answer.accepted, answer.message
    stored = jobs.get("reporting")["status"]
    assert stored == want_status.to_json()
    assert FineTuneJobStatus.model_validate(stored) == want_status


def test_the_full_status_leaves_no_field_out() -> None:
    schema = structural(FineTuneJobStatus, defaults=False)
    assert set(_paths(schema)) - set(_set_paths(full_status().to_json(), schema)) == set()


def test_a_write_to_status_does_not_touch_the_spec(jobs: JobApi) -> None:
    before = jobs.create(smallest("untouched"))
    jobs.write_status("untouched", {"phase": "Training"})
    after = jobs.get("untouched")
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1


def test_status_is_not_written_through_the_job_itself(jobs: JobApi) -> None:
    assert "status" not in jobs.create(smallest("forged") | {"status": {"phase": "Succeeded"}})


def test_two_conditions_of_one_type_are_refused(jobs: JobApi) -> None:
    jobs.create(smallest("twice"))
    (condition,) = full_status().to_json()["conditions"]
    answer = jobs.write_status("twice", {"conditions": [condition, condition]})
    assert "status.conditions[1]: Duplicate value" in answer.message


def _paths(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from _paths(field, f"{path}.{name}")
        yield from _paths(field.get("items", {}), f"{path}.{name}")


def _set_paths(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for item in value if isinstance(value, list) else [value]:
        inner = schema.get("items", schema)
        for name, field in inner.get("properties", {}).items():
            if name in item:
                yield f"{path}.{name}"
                yield from _set_paths(item[name], field, f"{path}.{name}")
