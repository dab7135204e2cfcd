from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from local_cluster import process
from local_cluster.errors import ComponentFailedError
from local_cluster.process import Processes, ProcessIdentity


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    started.stop(started.names(), grace=1)


def test_a_name_with_spaces_and_brackets_does_not_shift_the_fields() -> None:
    fields = " ".join(str(number) for number in range(4, 30))
    assert process.parse_stat(f"42 (a (b) c) S {fields}") == (42, "S", 22)


@pytest.mark.parametrize("text", ["", "\n", "42 (sh) S 1\n"])
def test_a_record_cut_short_by_a_crash_is_no_record(text: str) -> None:
    assert process.parse_record(text) is None


def test_a_started_process_records_who_it_is(processes: Processes) -> None:
    processes.start("sleeper", ["sleep", "60"])
    identity = processes.identity("sleeper")
    assert identity is not None
    assert (processes.running("sleeper"), identity.boot_id) == (True, process.boot_id())


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another"}])
def test_a_recycled_pid_is_another_process(processes: Processes, change: dict[str, object]) -> None:
    processes.start("sleeper", ["sleep", "60"])
    identity = processes.identity("sleeper")
    assert identity is not None
    assert not process.is_running(replace(identity, **change))  # type: ignore[arg-type]


def test_a_stranger_with_the_recorded_pid_is_not_signalled(processes: Processes) -> None:
    processes.start("stranger", ["sleep", "60"])
    identity = processes.identity("stranger")
    assert identity is not None
    record = processes.records / "ours.record"
    stat = " ".join(str(number) for number in range(4, 30))
    record.write_text(f"{identity.pid} (sleep) S {stat}\n{identity.boot_id}\n")
    processes.stop(["ours"], grace=0.1)
    assert processes.running("stranger")


def test_starting_twice_starts_once(processes: Processes) -> None:
    processes.start("sleeper", ["sleep", "60"])
    want_identity = processes.identity("sleeper")
    processes.start("sleeper", ["sleep", "60"])
    assert processes.identity("sleeper") == want_identity


def test_a_paused_process_can_be_stopped(processes: Processes) -> None:
    processes.start("sleeper", ["sleep", "60"])
    processes.send("sleeper", signal.SIGSTOP)
    processes.stop(["sleeper"], grace=2)
    assert (processes.running("sleeper"), processes.names()) == (False, [])


def test_a_process_deaf_to_sigterm_is_killed(processes: Processes) -> None:
    processes.start("deaf", ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
    processes.stop(["deaf"], grace=0.2)
    assert not processes.running("deaf")


def test_an_early_end_shows_the_end_of_the_log(processes: Processes) -> None:
    processes.start("broken", ["sh", "-c", "echo no such flag; exit 1"])
    with pytest.raises(ComponentFailedError, match=r"broken ended while it was starting(.|\n)*no such flag"):
        processes.wait_healthy("broken", lambda: False, timeout=5)


def test_a_process_that_never_was_is_not_running() -> None:
    assert not process.is_running(ProcessIdentity(2**22 + 1, 1, process.boot_id()))
