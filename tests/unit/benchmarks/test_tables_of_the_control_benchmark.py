"""A results file becomes tables."""

import json
import os

from control import report
from control.measurement import Costs, Measurement
from control.scale import Part, Scale


def results(**more: object) -> dict:
    origin = {"date": "2026-11-21", "machine": "2 cores", "versions": {"KWOK": "0.8.0"}}
    document = origin | {"measurements": [], "scales": []} | more
    return json.loads(json.dumps(document))


def measurement(rate: float | None = None) -> Measurement:
    return Measurement(
        "finetune",
        "ours",
        jobs=100,
        rate=rate,
        seconds_to_last_child=2.0,
        p50=0.0104,
        p99=0.25,
        seconds_to_last_end=None if rate else 20.0,
        peak_mib=99.6,
        to_children=Costs(seconds=2.0, operator=0.3, others=1.0),
        whole=Costs(seconds=20.0, operator=0.6, components={"kube-apiserver": 2.0}),
        operator_requests={"create jobs": 100, "update finetunejobs/status": 250, "list pods": 5},
    )


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_measurement_is_a_line_of_rates_latencies_and_costs() -> None:
    text = report.markdown(results(measurements=[measurement().document()]))
    load, cost = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ours")
    ]
    assert load[1:] == ["100 at once", "50.0", load[3], "10", "250", "20.0", "0.50"]
    assert cost[1:] == ["100 at once", "6.0", "3.0", "20.0", "0.0", "0.0", "3.50", "0.05", "100"]


def test_requests_of_all_systems_stand_side_by_side() -> None:
    other = measurement(10.0)
    other.operator_requests = {"create events": 100}
    text = report.markdown(results(measurements=[measurement().document(), other.document()]))
    assert cells(text, "create jobs")[1:] == ["1.00", "0.00"]
    assert cells(text, "create events")[1:] == ["0.00", "1.00"]


def test_what_was_not_measured_is_said_to_be_so() -> None:
    assert "not measured" in report.markdown(results(measurements=[measurement(10.0).document()]))


def test_growth_compares_the_cost_of_one_job_in_both_halves() -> None:
    scale = Scale(
        "finetune", "ours", 100, Part(50, 5.0, 1.0), Part(50, 10.0, 1.5), 1, 2, 3, 4, 10.0, 20, 0.01, 0.02, 0.03
    )
    text = report.markdown(results(scales=[scale.document()]))
    assert cells(text, "growth of that")[1] == "1.50"
    assert cells(text, "first 50: child Jobs per second")[1] == "10.0"
    assert cells(text, "operator CPU of one of the next 50, ms")[1] == "30.0"


def test_where_and_when_it_was_measured_comes_first() -> None:
    assert report.markdown(results()).startswith("Measured 2026-11-21 on 2 cores, with KWOK 0.8.0.")


def test_the_estimate_for_a_machine_of_its_own_leaves_out_the_time_of_others() -> None:
    one = measurement()
    assert one.alone_per_second == 100 / (2.0 - 1.0 / (os.cpu_count() or 1))
