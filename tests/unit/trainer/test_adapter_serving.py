"""What the model card says of vLLM: a command that loads the published adapter, or why there is none. Pure."""

import re
from typing import Any

import pytest

from finetune_trainer.exporting.card import model_card
from trainer_requests import make_spec


def card_of(*artifacts: str, dataset: dict[str, Any] | None = None, **method: Any) -> str:
    """The card of a job of `method` that has published `artifacts`, adapters."""
    spec = make_spec(method=method, **({} if dataset is None else {"dataset": dataset}))
    training = {"totalSteps": 1, "batchSize": 1, "objective": "sft", "learningRate": "1", "precision": "fp32"}
    told = [{"name": name, "totalSteps": 1, "batchSize": 1} for name in (a.name for a in spec.method.adapters)]
    report = {
        "job": {"name": "bot"},
        "spec": spec.to_json(),
        "plan": {"method": {"type": spec.method.type}, "training": training, "adapters": told},
        "artifacts": [{"name": name, "format": "peft", "sizeBytes": 1} for name in artifacts],
    }
    return model_card(report, "acme/tiny")


def commands(card: str) -> list[str]:
    return re.findall(r"^vllm .+$", card, re.MULTILINE)


@pytest.mark.parametrize(
    ("rank", "option"),
    [
        (1, ""),
        (16, ""),
        (17, "--max-lora-rank 32 "),
        (64, "--max-lora-rank 64 "),
        (200, "--max-lora-rank 256 "),
        (257, "--max-lora-rank 320 "),
        (321, "--max-lora-rank 512 "),
    ],
)
def test_the_command_allows_the_rank_and_no_more_than_that_takes(rank: int, option: str) -> None:
    want = f"vllm serve acme/tiny --enable-lora {option}--lora-modules adapter=./adapter"
    assert commands(card_of("adapter", type="lora", rank=rank)) == [want]


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ({"type": "lora", "initialization": "pissa", "rank": 8}, []),
        ({"type": "lora", "initialization": "pissa"}, ["32"]),
        ({"type": "lora", "initialization": "olora", "rank": 20}, ["64"]),
        ({"type": "qlora", "initialization": "loftq", "rank": 128}, ["256"]),
        ({"type": "qlora", "rank": 32, "rankStabilized": True}, ["32"]),
    ],
)
def test_the_command_allows_the_rank_that_is_published(method: dict[str, Any], option: list[str]) -> None:
    assert re.findall(r"--max-lora-rank (\d+)", card_of("adapter", **method)) == option


@pytest.mark.parametrize(
    ("method", "cause"),
    [
        ({"type": "dora"}, "it takes LoRA, not DoRA"),
        ({"type": "adapter"}, "it takes LoRA, not IA3"),
        (
            {"type": "lora", "modulesToSave": ["lm_head", "embed_tokens"]},
            "modules are trained whole: `lm_head`, `embed_tokens`",
        ),
        ({"type": "lora", "rank": 513}, "its rank is 513, above 512"),
        ({"type": "lora", "rank": 512, "initialization": "pissa"}, "its rank is 1024, above 512"),
    ],
)
def test_an_adapter_that_vllm_does_not_load_has_the_way_out_in_place_of_a_command(
    method: dict[str, Any], cause: str
) -> None:
    card = card_of("adapter", **method)
    assert f"vLLM does not load this adapter ({cause}); it serves the merged model" in card
    assert "`format: safetensors`" in card
    assert commands(card) == []


def two_adapters(**ranks: int | None) -> dict[str, Any]:
    adapters = [
        {"name": name, "dataset": {"source": f"pvc://data/{name}.jsonl"}, **({"rank": rank} if rank else {})}
        for name, rank in ranks.items()
    ]
    return {"dataset": {}, "type": "lora", "adapters": adapters}


def test_one_server_allows_the_largest_rank_and_each_adapter_its_own() -> None:
    told = commands(card_of("billing", "returns", **two_adapters(billing=64, returns=None)))
    assert [command.partition(" --enable-lora ")[2] for command in told] == [
        "--max-lora-rank 64 --lora-modules billing=./billing",
        "--lora-modules returns=./returns",
        "--max-loras 2 --max-lora-rank 64 --lora-modules billing=./billing returns=./returns",
    ]


def test_one_server_leaves_out_what_it_does_not_load() -> None:
    [command] = commands(card_of("billing", "returns", **two_adapters(billing=600, returns=None)))
    assert command.endswith("--lora-modules returns=./returns")
