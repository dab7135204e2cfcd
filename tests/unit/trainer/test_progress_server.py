import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from finetune_api.contract import ProgressReport
from finetune_api.status import Checkpoint, HistoryPoint, Metrics, Stage
from finetune_trainer.progress import TRAIN_GAUGES, ProgressServer, StageProgress
from trainer_requests import UID, make_request


@pytest.fixture
def progress() -> StageProgress:
    return StageProgress(make_request(Stage.TRAIN, attempt=3))


@pytest.fixture
def address(progress: StageProgress) -> Iterator[str]:
    with closing(ProgressServer(progress, "127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.address[1]}"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
        return str(answer.read().decode())


def samples(address: str) -> dict[str, float]:
    """The gauges of training, with their labels as Prometheus reads them."""
    lines = [line for line in get(f"{address}/metrics").splitlines() if line.startswith("finetune_train_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def status_of(url: str, method: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_before_the_first_step_the_report_says_so(address: str) -> None:
    report = ProgressReport.model_validate_json(get(f"{address}/progress"))
    assert (report.job_uid, report.attempt, report.progress.step, report.progress.total_steps) == (UID, 3, 0, 0)


def test_the_report_has_the_latest_of_everything(progress: StageProgress, address: str) -> None:
    progress.update(10, 40, epoch=0.75, seconds_left=60, metrics=Metrics(loss=2.0, learning_rate=1e-4))
    progress.update(20, 40, metrics=Metrics(loss=1.5), point=HistoryPoint(step=20, loss=1.5))
    saved = Checkpoint(step=20, saved_at="2026-01-01T00:00:00Z", verified=True)
    progress.update(20, 40, checkpoint=saved)
    report = ProgressReport.model_validate_json(get(f"{address}/progress"))
    assert (report.progress.step, report.progress.percent, report.progress.epoch) == (20, 50, 0.75)
    assert report.progress.seconds_left == 60
    assert report.metrics == Metrics(loss=1.5, learning_rate=1e-4)
    assert report.history == [HistoryPoint(step=20, loss=1.5)]
    assert report.checkpoint == saved


def test_the_adapter_that_is_worked_on_is_told_until_the_next_one_is(progress: StageProgress) -> None:
    heard = []
    for adapter in ("billing", None, "returns"):
        progress.update(1, 40, **({"adapter": adapter} if adapter else {}))
        heard.append(progress.report().progress.adapter)
    assert heard == ["billing", "billing", "returns"]


def test_measurements_of_one_adapter_are_not_told_of_the_next(progress: StageProgress) -> None:
    progress.update(1, 40, metrics=Metrics(loss=2, eval_loss=3, adapter="billing"))
    progress.update(2, 40, metrics=Metrics(loss=1, adapter="billing"))
    assert progress.report().metrics == Metrics(loss=1, eval_loss=3, adapter="billing")
    progress.update(3, 40, metrics=Metrics(loss=5, adapter="returns"))
    assert progress.report().metrics == Metrics(loss=5, adapter="returns")


def test_numbers_travel_as_strings_as_in_status(progress: StageProgress, address: str) -> None:
    progress.update(1, 2, metrics=Metrics(loss=1.5))
    assert json.loads(get(f"{address}/progress"))["metrics"] == {"loss": "1.5"}


def test_the_curve_is_thinned_to_fifty_points_with_first_and_last(progress: StageProgress) -> None:
    for step in range(1, 1001):
        progress.update(step, 1000, point=HistoryPoint(step=step, loss=1.0))
    steps = [point.step for point in progress.report().history]
    assert len(steps) == 50
    assert (steps[0], steps[-1]) == (1, 1000)
    assert steps == sorted(steps)


def test_the_percentage_is_rounded_down_and_never_above_one_hundred(progress: StageProgress) -> None:
    progress.update(199, 200)
    assert progress.report().progress.percent == 99
    progress.update(201, 200)
    assert progress.report().progress.percent == 100


def test_prometheus_reads_every_measurement_under_its_name(progress: StageProgress, address: str) -> None:
    values = dict.fromkeys(TRAIN_GAUGES, 4)
    progress.update(7, 9, epoch=0.5, seconds_left=3, metrics=Metrics(**values))
    text = get(f"{address}/metrics")
    for name, _ in TRAIN_GAUGES.values():
        assert f"# HELP {name} " in text
        assert f'\n{name}{{adapter=""}} 4.0\n' in text
    assert "\nfinetune_train_step 7.0\n" in text
    assert '\nfinetune_train_epoch{adapter=""} 0.5\n' in text
    assert 'finetune_stage_steps{stage="train"} 9.0' in text
    assert 'finetune_stage_left_seconds{stage="train"} 3.0' in text


def test_what_was_not_measured_is_absent_and_not_zero(progress: StageProgress, address: str) -> None:
    progress.update(1, 9, metrics=Metrics(loss=1.0))
    text = get(f"{address}/metrics")
    assert 'finetune_train_loss{adapter=""} 1.0' in text
    assert "finetune_train_eval_loss" not in text


def test_prometheus_is_told_of_which_adapter_a_measurement_is(progress: StageProgress, address: str) -> None:
    checkpoint = Checkpoint(step=40, saved_at="2026-01-01T00:00:00Z", verified=True)
    billing, returns = (Metrics(loss=loss, adapter=name) for loss, name in ((2, "billing"), (5, "returns")))
    progress.update(40, 80, epoch=1, adapter="billing", metrics=billing, checkpoint=checkpoint)
    assert samples(address) == {
        "finetune_train_step": 40,
        "finetune_train_checkpoint_step": 40,
        'finetune_train_epoch{adapter="billing"}': 1,
        'finetune_train_loss{adapter="billing"}': 2,
    }
    progress.update(40, 80, adapter="returns")
    assert 'finetune_train_loss{adapter="billing"}' in samples(address)
    assert not [name for name in samples(address) if name.startswith("finetune_train_epoch")]
    progress.update(50, 80, epoch=0.25, adapter="returns", metrics=returns)
    assert samples(address) == {
        "finetune_train_step": 50,
        "finetune_train_checkpoint_step": 40,
        'finetune_train_epoch{adapter="returns"}': 0.25,
        'finetune_train_loss{adapter="returns"}': 5,
    }


def test_a_stage_without_training_has_no_training_gauges() -> None:
    progress = StageProgress(make_request(Stage.EVALUATE))
    progress.update(3, 6)
    with closing(ProgressServer(progress, "127.0.0.1", 0)) as server:
        text = get(f"http://127.0.0.1:{server.address[1]}/metrics")
    assert 'finetune_stage_steps_done{stage="evaluate"} 3.0' in text
    assert "finetune_train" not in text


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_but_get_is_answered(address: str, method: str) -> None:
    assert status_of(f"{address}/progress", method) == 405


@pytest.mark.parametrize("path", ["/", "/progress/", "/etc/passwd", "/../progress"])
def test_no_other_path_is_served(address: str, path: str) -> None:
    assert status_of(address + path, "GET") == 404


def test_a_client_that_says_nothing_does_not_block_others(progress: StageProgress, address: str) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):
        assert "finetune_train_step" in get(f"{address}/metrics")


def test_updates_and_reads_from_many_threads_agree(progress: StageProgress) -> None:
    def write(worker: int) -> None:
        for step in range(100):
            progress.update(step, 100, point=HistoryPoint(step=worker))
            progress.report()

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(progress.report().history) == 50
