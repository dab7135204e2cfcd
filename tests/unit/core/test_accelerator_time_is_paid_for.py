"""What training costs, counted once, over retries and pods that are gone, and the budget that ends it."""

from typing import Any

import pytest

from builders import make_job
from finetune_api.conditions import Reason
from finetune_api.prices import accelerators
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Phase, Stage
from world import World


def training_world(count: int = 1, **cost: Any) -> World:
    """A world whose job trains since now."""
    spec: dict[str, Any] = {"policy": {"cost": {"perHour": "3.60", **cost}}}
    if count:
        spec["resources"] = {"accelerator": {"count": count}}
    world = World(make_job().with_spec(**spec).obj())
    world.settle()
    world.start_pod()
    world.pass_time(50)
    world.end_pod()
    world.settle()
    assert world.phase is Phase.TRAINING
    world.start_pod()
    return world


def cost(world: World) -> tuple[int, str]:
    found = world.status.get("cost") or {"acceleratorSeconds": 0}
    return found["acceleratorSeconds"], found.get("amount", "")


@pytest.mark.parametrize(("count", "want"), [(0, (100, "0.10 USD")), (1, (100, "0.10 USD"))])
def test_training_is_paid_for_by_the_accelerator_and_preparing_is_not(count: int, want: tuple[int, str]) -> None:
    world = training_world(count)
    world.pass_time(100)
    world.end_pod()
    world.settle()
    assert cost(world) == want
    world.run_to_the_end()
    assert cost(world) == want


def test_each_accelerator_of_a_pod_is_paid_for() -> None:
    resources = {"accelerator": {"count": 8}}
    spec = FineTuneJobSpec.model_validate({**make_job().obj()["spec"], "resources": resources})
    assert accelerators(spec) == 8


def test_every_attempt_is_paid_once_however_often_one_looks() -> None:
    world = training_world()
    world.pass_time(100)
    world.end_pod(exit_code=1, result="Segmentation fault")
    world.settle()
    world.pass_time(600)
    world.settle()
    world.start_pod()
    world.pass_time(30)
    world.end_pod()
    world.settle()
    assert cost(world) == (130, "0.13 USD")


def test_a_pod_that_is_gone_stays_in_the_sum() -> None:
    world = training_world()
    world.pass_time(100)
    world.settle()
    world.end_pod()
    world.settle()
    world.remove_pods()
    world.end_pod()
    world.settle()
    assert cost(world) == (100, "0.10 USD")


def test_time_alone_is_no_reason_to_write() -> None:
    world = training_world()
    world.settle()
    writes = len(world.history)
    world.pass_time(5)
    world.settle()
    assert len(world.history) == writes


def test_a_spent_budget_ends_the_job_and_its_pod() -> None:
    world = training_world(budget="0.5", currency="EUR")
    decided = world.settle()
    assert decided.requeue_after == pytest.approx(500)
    world.pass_time(499)
    world.settle()
    assert world.phase is Phase.TRAINING
    world.pass_time(1)
    world.settle()
    condition = world.condition("Succeeded")
    assert condition["reason"] == Reason.BUDGET_EXCEEDED
    assert "the job has cost 0.50 EUR of policy.cost.budget: 0.5 EUR" in condition["message"]
    assert world.live_job is None
    assert world.condition("Trained")["status"] == "False"


@pytest.mark.parametrize("price", ["0", "0.00"])
def test_what_costs_nothing_is_never_too_dear(price: str) -> None:
    world = training_world(perHour=price, budget="0")
    world.pass_time(10_000)
    world.settle()
    assert world.phase is Phase.TRAINING


def test_without_a_price_the_time_is_told_and_no_amount() -> None:
    world = World(make_job().obj())
    world.run_to_the_end()
    assert world.status["cost"] == {"acceleratorSeconds": 0, "amount": "", "pods": world.status["cost"]["pods"]}
    assert [p["pod"].split("-")[2] for p in world.status["cost"]["pods"]] == [Stage.TRAIN, Stage.EVALUATE]
