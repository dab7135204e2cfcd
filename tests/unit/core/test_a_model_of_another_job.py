"""job://name waits for the other job, takes its whole model or its adapter, and does not need that job any more."""

import json
from typing import Any

import pytest

from builders import make_job, make_plan
from finetune_api import names
from finetune_api.status import Phase, PlannedAdapter
from finetune_operator.core.lineage import awaited_parent
from world import World

DIGEST = "sha256:" + "7" * 64


def artifact(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "format": kind, "uri": f"pvc://models/first/{name}", "sizeBytes": 1, "digest": DIGEST}


MERGED, ADAPTER = artifact("merged", "safetensors"), artifact("adapter", "peft")
GRANDPARENT = {"job": "zeroth", "uid": "u0", "artifact": "m", "uri": "pvc://models/zeroth/m", "digest": DIGEST}


def parent(phase: str = "Succeeded", *artifacts: dict[str, Any], **status: Any) -> dict[str, Any]:
    job = make_job("first").obj()
    job["status"] = {"phase": phase, "artifacts": [*artifacts], **status}
    return job


PLAN_OF_TWO = (
    make_plan()
    .model_copy(
        update={
            "adapters": [
                PlannedAdapter(
                    name=name, train_rows=9, eval_rows=1, total_steps=5, batch_size=2, max_length=8, estimated_bytes=1
                )
                for name in ("billing", "returns")
            ]
        }
    )
    .to_json()
)


def child(**spec: Any) -> World:
    return World(make_job("second").with_spec(model={"source": "job://first"}, **spec).obj())


def requests(world: World) -> list[dict[str, Any]]:
    annotations = [job["spec"]["template"]["metadata"]["annotations"] for job in world.jobs.values()]
    return [json.loads(a[names.ANNOTATION_REQUEST]) for a in annotations]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (None, "does not exist in this namespace yet"),
        (parent("Training"), "which has published nothing yet (Training)"),
        (parent("Suspended"), "which has published nothing yet (Suspended)"),
    ],
)
def test_it_waits_and_says_for_what(other: dict[str, Any] | None, words: str) -> None:
    world = child()
    world.parent = other
    decided = world.settle()
    assert world.phase is Phase.PENDING
    assert words in world.condition("Prepared")["message"]
    assert world.condition("Prepared")["reason"] == "Waiting"
    assert decided.requeue_after is not None
    assert world.jobs == {}


def test_the_whole_model_is_tuned_from_where_it_was_published() -> None:
    world = child()
    world.parent = parent("Succeeded", ADAPTER, MERGED, lineage=[GRANDPARENT])
    world.settle()
    [request] = requests(world)
    assert request["spec"]["model"]["source"] == MERGED["uri"]
    assert [(a["job"], a["digest"]) for a in request["lineage"]] == [("first", DIGEST), ("zeroth", DIGEST)]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in _volumes(world) if "persistentVolumeClaim" in v]
    assert "models" in claims
    assert world.status["lineage"] == request["lineage"]


def _volumes(world: World) -> list[dict[str, Any]]:
    [job] = world.jobs.values()
    volumes: list[dict[str, Any]] = job["spec"]["template"]["spec"]["volumes"]
    return volumes


def test_a_model_in_a_bucket_is_read_with_the_keys_that_the_job_names() -> None:
    world = World(
        make_job("second").with_spec(model={"source": "job://first", "credentials": {"secretRef": "s3-keys"}}).obj()
    )
    world.parent = parent("Succeeded", MERGED | {"uri": "s3://models/first/merged"})
    world.settle()
    [request] = requests(world)
    assert request["spec"]["model"]["source"] == "s3://models/first/merged"
    [job] = world.jobs.values()
    assert job["spec"]["template"]["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]


def test_once_begun_it_does_not_need_the_other_job() -> None:
    world = child()
    world.parent = parent("Succeeded", MERGED)
    world.settle()
    world.parent = None
    world.run_to_the_end()
    assert world.phase is Phase.SUCCEEDED
    assert {request["spec"]["model"]["source"] for request in requests(world)} == {MERGED["uri"]}


@pytest.mark.parametrize(
    ("other", "reason", "words"),
    [
        (parent("Failed", message="no rows are left"), "ParentFailed", "no rows are left"),
        (parent("Succeeded", ADAPTER), "InvalidModel", "has published peft"),
        (parent("Succeeded"), "InvalidModel", "has published nothing"),
        (
            parent("Succeeded", MERGED, plan=PLAN_OF_TWO),
            "InvalidModel",
            "name the folder of the one that is meant in model.source, as in pvc://models/first/merged",
        ),
        (
            parent("Succeeded", ADAPTER, plan=PLAN_OF_TWO),
            "InvalidModel",
            "has trained several adapters (billing, returns); give it an export of format safetensors, and name",
        ),
    ],
)
def test_a_job_without_a_model_to_tune_on_ends_this_one(other: dict[str, Any], reason: str, words: str) -> None:
    world = child()
    world.parent = other
    world.settle()
    assert (world.phase, world.condition("Prepared")["reason"]) == (Phase.FAILED, reason)
    assert words in world.status["message"]


def continuing(**spec: Any) -> World:
    method = {"continueFrom": {"source": "job://first"}}
    return World(make_job("second").with_spec(model={"source": "pvc://models/base"}, method=method, **spec).obj())


def test_an_adapter_is_continued_from_where_it_was_published_on_the_base_that_the_job_names() -> None:
    world = continuing()
    world.parent = parent("Succeeded", MERGED, ADAPTER, plan=make_plan().to_json(), lineage=[GRANDPARENT])
    world.settle()
    [request] = requests(world)
    assert request["spec"]["model"]["source"] == "pvc://models/base"
    assert request["spec"]["method"]["continueFrom"]["source"] == ADAPTER["uri"]
    nearest, _ = request["lineage"]
    assert (nearest["artifact"], nearest["baseDigest"]) == ("adapter", make_plan().model.digest)
    assert world.status["lineage"] == request["lineage"]


def test_the_base_of_a_merged_model_is_nobodys_concern() -> None:
    world = child()
    world.parent = parent("Succeeded", MERGED, plan=make_plan().to_json())
    world.settle()
    assert "baseDigest" not in {key for key, value in world.status["lineage"][0].items() if value}


@pytest.mark.parametrize(
    ("other", "phase", "words"),
    [
        (None, Phase.PENDING, "waiting for FineTuneJob first, which does not exist"),
        (parent("Training"), Phase.PENDING, "waiting for FineTuneJob first, which has published nothing yet"),
        (parent("Failed", message="no"), Phase.FAILED, "method.continueFrom.source: job://first has failed: no"),
        (
            parent("Succeeded", MERGED),
            Phase.FAILED,
            "has published safetensors, and what can be continued is an adapter: give it an export of format peft",
        ),
        (
            parent("Succeeded", ADAPTER, plan=PLAN_OF_TWO),
            Phase.FAILED,
            "name the folder of the one that is meant in method.continueFrom.source, as in pvc://models/first/adapter",
        ),
    ],
)
def test_an_adapter_is_waited_for_like_a_model(other: dict[str, Any] | None, phase: Phase, words: str) -> None:
    world = continuing()
    world.parent = other
    world.settle()
    assert world.phase is phase
    assert words in (world.status.get("message") or "") + world.condition("Prepared")["message"]


def test_the_claim_of_a_continued_adapter_is_mounted() -> None:
    method = {"continueFrom": {"source": "pvc://adapters/first"}}
    world = World(make_job("second").with_spec(method=method).obj())
    world.settle()
    claims = [v["persistentVolumeClaim"]["claimName"] for v in _volumes(world) if "persistentVolumeClaim" in v]
    assert "adapters" in claims


def test_only_prepare_mounts_what_only_prepare_reads() -> None:
    method = {"continueFrom": {"source": "pvc://adapters/first"}}
    world = World(make_job("second").with_spec(method=method).obj())
    world.run_to_the_end()
    claims = {
        job["metadata"]["labels"][names.LABEL_STAGE]: {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in job["spec"]["template"]["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        for job in world.jobs.values()
    }
    assert {"adapters", "datasets"} <= claims["prepare"]
    assert all(not {"adapters", "datasets"} & claims[stage] for stage in ("train", "evaluate", "export"))


def test_a_private_adapter_is_read_with_its_own_secret() -> None:
    continued = {"source": "hf://org/adapter", "credentials": {"secretRef": "hub"}}
    world = World(make_job("second").with_spec(method={"continueFrom": continued}).obj())
    world.settle()
    [job] = world.jobs.values()
    assert {"secretRef": {"name": "hub"}} in job["spec"]["template"]["spec"]["containers"][0]["envFrom"]


def test_it_cannot_wait_for_itself() -> None:
    world = World(make_job("first").with_spec(model={"source": "job://first"}).obj())
    world.settle()
    assert "names this very job" in world.status["message"]


def test_what_this_version_cannot_do_is_told_without_waiting() -> None:
    world = child(distributed={"strategy": "fsdp"})
    world.settle()
    assert world.status["message"] == "not supported yet: distributed.strategy=fsdp"


def test_a_deadline_ends_the_waiting() -> None:
    world = child(policy={"activeDeadlineSeconds": 60})
    world.settle()
    world.pass_time(61)
    world.settle()
    assert world.condition("Succeeded")["reason"] == "DeadlineExceeded"


def test_the_other_job_is_looked_up_only_until_it_is_known() -> None:
    job = make_job("second").with_spec(model={"source": "job://first"}).obj()
    assert awaited_parent(job) == "first"
    job["status"] = {"lineage": [GRANDPARENT]}
    assert awaited_parent(job) == ""
    assert awaited_parent(make_job().obj()) == ""
    assert awaited_parent(continuing().job) == "first"
    assert awaited_parent({"spec": {"method": {"continueFrom": "job://first"}}}) == ""
