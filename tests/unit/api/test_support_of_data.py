"""Which sources and credentials this version takes; the rest is refused by name."""

from typing import Any

import pytest

from finetune_api.spec import FineTuneJobSpec
from finetune_api.support import unsupported


def refused(**parts: Any) -> list[str]:
    smallest = {"model": {"source": "pvc://m/tiny"}, "dataset": {"train": {"source": "pvc://d/train.jsonl"}}}
    return unsupported(FineTuneJobSpec.model_validate({**smallest, **parts}))


@pytest.mark.parametrize(
    ("parts", "want"),
    [
        ({"model": {"source": "s3://models/tiny"}, "dataset": {"train": {"source": "s3://d/t.jsonl"}}}, []),
        ({"dataset": {"train": {"source": "pvc://d/t.jsonl"}, "tools": True}}, []),
        ({"task": "classification", "exports": [{"name": "a", "format": "onnx", "precision": "int8"}]}, []),
        (
            {"task": "token-classification", "exports": [{"name": "a", "format": "onnx", "precision": "int4"}]},
            ["exports[0].precision=int4"],
        ),
        ({"model": {"source": "gs://models/tiny"}, "dataset": {"train": {"source": "az://d/t.jsonl"}}}, []),
        ({"model": {"source": "oci://registry/tiny"}}, ["model.source=oci"]),
        *(
            ({"output": {"destination": f"{scheme}://models/bot", "credentials": {"secretRef": "k"}}}, [])
            for scheme in ("s3", "gs", "az")
        ),
        ({"output": {"destination": "hf://org/bot"}}, ["output.destination=hf"]),
        (
            {"output": {"destination": "pvc://models/bot", "credentials": {"secretRef": "k"}}},
            ["output.credentials=k with pvc://"],
        ),
        ({"output": {"credentials": {"secretRef": "k"}}}, ["output.credentials=k with no output.destination"]),
        ({"model": {"source": "pvc://m/tiny", "revision": "v1"}}, ["model.revision=v1 with pvc://"]),
        ({"model": {"source": "hf://org/tiny", "revision": "v1"}}, []),
        ({"model": {"source": "hf://org/tiny", "trustRemoteCode": True}}, ["model.trustRemoteCode"]),
        ({"resources": {"accelerator": {"count": 1}}}, []),
        ({"resources": {"accelerator": {"count": 2}}}, ["resources.accelerator.count=2"]),
        (
            {"distributed": {"zeroStage": 2, "offload": "all"}},
            ["distributed.zeroStage=2", "distributed.offload=all"],
        ),
        ({"method": {"continueFrom": {"source": "hf://org/a", "revision": "v1"}}}, []),
        (
            {"method": {"continueFrom": {"source": "gs://b/a", "revision": "v1"}}},
            ["method.continueFrom.revision=v1 with gs://"],
        ),
        (
            {"method": {"continueFrom": {"source": "pvc://m/a"}}, "task": "classification"},
            ["method.continueFrom with task=classification"],
        ),
    ],
)
def test_what_is_not_supported_is_named(parts: dict[str, Any], want: list[str]) -> None:
    assert refused(**parts) == want


def keys(secret: str, source: str = "s3://d/t.jsonl") -> dict[str, Any]:
    return {"source": source, "credentials": {"secretRef": secret}}


@pytest.mark.parametrize(
    ("task", "objective"),
    [("chat", "sft"), ("completion", "pretrain"), *(("preference", objective) for objective in ("dpo", "orpo", "kto"))],
)
def test_every_objective_is_supported(task: str, objective: str) -> None:
    assert refused(task=task, training={"objective": objective}) == []


ADAPTERS = [{"name": name, "dataset": {"source": "pvc://d/t.jsonl"}} for name in ("billing", "returns")]


@pytest.mark.parametrize("method", ["lora", "qlora", "dora", "adapter"])
@pytest.mark.parametrize(("task", "objective"), [("chat", "sft"), ("completion", "pretrain"), ("preference", "dpo")])
def test_several_adapters_go_with_every_method_and_objective(method: str, task: str, objective: str) -> None:
    parts = {"task": task, "training": {"objective": objective}, "dataset": {}}
    assert refused(method={"type": method, "adapters": ADAPTERS}, **parts) == []


@pytest.mark.parametrize("task", ["classification", "token-classification"])
def test_a_head_of_classes_is_not_shared_by_adapters(task: str) -> None:
    want = [f"method.adapters with task={task}"]
    assert refused(task=task, method={"adapters": ADAPTERS}, dataset={}) == want


def test_the_sources_of_each_adapter_are_looked_at() -> None:
    first = {"name": "billing", "dataset": keys("a"), "eval": keys("c")}
    second = {"name": "returns", "dataset": keys("b")}
    assert refused(method={"adapters": [first, second]}, dataset={}) == [
        "method.adapters[billing].eval.credentials=c beside a for s3://",
        "method.adapters[returns].dataset.credentials=b beside a for s3://",
    ]


def test_two_secrets_for_one_kind_of_source_would_hide_each_other() -> None:
    assert refused(dataset={"train": keys("a"), "eval": keys("b")}) == ["dataset.eval.credentials=b beside a for s3://"]
    assert refused(dataset={"train": keys("a"), "eval": keys("a")}) == []
    assert refused(model=keys("hub", "hf://org/tiny"), dataset={"train": keys("a")}) == []


def test_the_destination_may_have_another_secret_than_the_sources() -> None:
    output = {"destination": "s3://models/bot", "credentials": {"secretRef": "b"}}
    assert refused(dataset={"train": keys("a")}, output=output) == []
