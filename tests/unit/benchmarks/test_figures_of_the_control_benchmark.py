"""What the benchmark reads from /proc and the audit log, and the arithmetic on it."""

import json
import math
import os

import pytest

from control import figures, programs

TICKS = os.sysconf("SC_CLK_TCK")


def audited(verb: str, resource: str, namespace: str, user: str = "op", **more: str) -> bytes:
    reference = {"resource": resource, "namespace": namespace, **more}
    return json.dumps(
        {"verb": verb, "user": {"username": user}, "objectRef": reference}, separators=(",", ":")
    ).encode()


@pytest.mark.parametrize(("percent", "want"), [(1, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, want: float) -> None:
    assert figures.percentile([float(n) for n in range(100, 0, -1)], percent) == want


def test_of_two_values_the_greater_is_the_p99() -> None:
    assert figures.percentile([2.0, 1.0], 99) == 2.0


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(figures.percentile([], 50))


def test_processor_time_is_read_behind_a_name_with_brackets_and_spaces() -> None:
    numbers = " ".join(str(n) for n in range(4, 53))
    assert figures.cpu_seconds_of(f"7 (a ) b) S {numbers}") == (14 + 15) / TICKS


def test_waiting_for_a_disk_and_idling_are_no_work() -> None:
    assert figures.busy_seconds_of("cpu  1 2 4 1000 1000 8 16 32 0 0\ncpu0 9 9 9") == 63 / TICKS


def test_the_peak_is_told_in_mebibytes() -> None:
    assert figures.peak_mib_of("VmPeak:\t999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t1 kB\n") == 2.0


def test_this_process_has_worked_and_has_a_peak() -> None:
    assert figures.cpu_seconds([os.getpid()]) > 0
    assert figures.peak_mib([os.getpid()]) > 1
    assert figures.busy_seconds() > 0


def test_requests_are_counted_by_user_verb_and_resource_in_one_namespace_without_watches() -> None:
    log = [
        audited("create", "jobs", "here"),
        audited("create", "jobs", "here"),
        audited("update", "finetunejobs", "here", subresource="status"),
        audited("create", "jobs", "elsewhere"),
        audited("create", "namespaces", "elsewhere", name="here"),
        audited("watch", "jobs", "here"),
        audited("get", "pods", "here", user="another"),
    ]
    counted = figures.requests_of(log, "here")
    assert counted == {"op": {"create jobs": 2, "update finetunejobs/status": 1}, "another": {"get pods": 1}}
    assert figures.of_users(counted, ["another", "op", "nobody"]).total() == 4


def test_reads_and_writes_are_told_apart() -> None:
    counted = {"create jobs": 3, "patch jobs": 1, "update leases": 1, "get pods": 2, "list pods": 4}
    assert (figures.writes(counted), figures.reads(counted)) == (5, 6)


def test_the_version_of_a_program_is_the_one_that_is_required_directly() -> None:
    go_mod = "module a\n\nrequire x.y/z v1.2.3\n\nrequire (\n\tx.y/z/other v9.9.9 // indirect\n\tb.c/d v0.1.0\n)\n"
    assert programs.required_version(go_mod, "x.y/z") == "1.2.3"
    assert programs.required_version(go_mod, "b.c/d") == "0.1.0"
    with pytest.raises(ValueError, match="to require e"):
        programs.required_version(go_mod, "e.f/g")


@pytest.mark.parametrize("name", ["kwok", "trainer", "jobset"])
def test_every_program_has_a_version_and_is_imported_by_its_module(name: str) -> None:
    folder = programs.COMPONENTS / name
    assert programs.version(name)[0].isdigit()
    assert (folder / "go.sum").exists()
    assert 'import _ "' in (folder / "binaries.go").read_text()
