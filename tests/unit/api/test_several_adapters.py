"""Each of method.adapters as the spec of an ordinary job: its rows, rank, scale and artefacts. Pure."""

from typing import Any

import pytest

from finetune_api.adapters import adapter_specs, name_conflict
from finetune_api.sources import data_sources
from finetune_api.spec import FineTuneJobSpec

ROWS = {"source": "pvc://d/t.jsonl"}


def spec_of(*adapters: dict[str, Any], **parts: Any) -> FineTuneJobSpec:
    named = [{"dataset": {"source": f"pvc://d/{adapter['name']}.jsonl"}, **adapter} for adapter in adapters]
    method = {**parts.pop("method", {}), "adapters": named}
    return FineTuneJobSpec.model_validate({"model": {"source": "pvc://m/tiny"}, "method": method, **parts})


def exports(*named: str) -> list[dict[str, str]]:
    return [{"name": name, "format": "peft"} for name in named]


def test_a_job_of_one_adapter_has_no_parts() -> None:
    alone = {"model": {"source": "pvc://m/tiny"}, "dataset": {"train": ROWS}}
    assert adapter_specs(FineTuneJobSpec.model_validate(alone)) == {}


@pytest.mark.parametrize(
    ("method", "adapter", "want"),
    [
        ({}, {}, (16, 32)),
        ({}, {"rank": 4}, (4, 8)),
        ({}, {"rank": 4, "alpha": 3}, (4, 3)),
        ({}, {"alpha": 3}, (16, 3)),
        ({"rank": 8, "alpha": 8}, {}, (8, 8)),
        ({"rank": 8, "alpha": 8}, {"rank": 32}, (32, 32)),
        ({"type": "adapter"}, {}, (16, 32)),
    ],
)
def test_rank_and_scale_are_the_adapters_own_or_the_methods(
    method: dict[str, Any], adapter: dict[str, Any], want: tuple[int, float]
) -> None:
    part = adapter_specs(spec_of({"name": "a", **adapter}, method=method))["a"]
    assert (part.method.rank, part.method.alpha) == want


def test_a_part_is_an_ordinary_job_on_the_adapters_own_rows() -> None:
    spec = spec_of(
        {"name": "billing", "eval": ROWS},
        {"name": "returns"},
        dataset={"template": "{question}", "evalFraction": 0.2},
        training={"maxSteps": 7},
    )
    parts = adapter_specs(spec)
    assert [*parts] == ["billing", "returns"]
    billing, returns = parts.values()
    assert billing.dataset.train is not None
    assert billing.dataset.train.source == "pvc://d/billing.jsonl"
    assert billing.dataset.eval == spec.method.adapters[0].eval
    assert returns.dataset.eval is None
    for part in parts.values():
        assert (part.dataset.template, part.dataset.eval_fraction, part.training) == ("{question}", 0.2, spec.training)
        assert part.method.adapters == []
        assert FineTuneJobSpec.model_validate(part.to_json()) == part


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        ([], ["billing", "returns"]),
        (exports("merged"), ["billing-merged", "returns-merged"]),
        (exports("a", "b"), ["billing-a", "billing-b", "returns-a", "returns-b"]),
    ],
)
def test_an_artefact_is_named_after_its_adapter(asked: list[dict[str, str]], want: list[str]) -> None:
    parts = adapter_specs(spec_of({"name": "billing"}, {"name": "returns"}, exports=asked))
    made = [export for part in parts.values() for export in part.exports]
    assert [export.name for export in made] == want
    assert {export.format for export in made} == {"peft"}


@pytest.mark.parametrize(
    ("adapters", "asked", "want"),
    [
        (["a", "b"], ["x", "y"], ""),
        (["a", "a-b"], ["b-c", "c"], "two artefacts would be named a-b-c"),
        (["a" * 40], ["b" * 22], ""),
        (["a" * 40], ["b" * 23], "would have a name of 64 characters; 63 are allowed"),
    ],
)
def test_names_that_clash_or_grow_too_long_are_told(adapters: list[str], asked: list[str], want: str) -> None:
    found = name_conflict(spec_of(*({"name": name} for name in adapters), exports=exports(*asked)))
    assert want in (found or "")
    assert bool(found) is bool(want)


def test_every_source_of_rows_is_known_by_its_field() -> None:
    spec = spec_of({"name": "billing", "eval": ROWS}, {"name": "returns"})
    assert {field: source.source for field, source in data_sources(spec).items()} == {
        "method.adapters[billing].dataset": "pvc://d/billing.jsonl",
        "method.adapters[billing].eval": "pvc://d/t.jsonl",
        "method.adapters[returns].dataset": "pvc://d/returns.jsonl",
    }
