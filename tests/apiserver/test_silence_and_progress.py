"""Where nothing changes nothing is written; the progress of a pod is read and written, no more often than set."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from apiserver.installation import Installation
from finetune_api.contract import ProgressReport
from finetune_api.names import PROGRESS_PORT
from finetune_api.status import Metrics, Progress, Stage

pytestmark = pytest.mark.apiserver

QUIET_SECONDS = 20.0
POD_ADDRESS = "127.94.64.1"


class StagePod:
    """A training pod's /progress, at an address of its own on loopback."""

    def __init__(self) -> None:
        self.uid, self.step, self.readings = "", 0, 0
        pod = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pod.readings += 1
                body = json.dumps(pod.report()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((POD_ADDRESS, PROGRESS_PORT), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def report(self) -> dict[str, object]:
        progress = Progress(stage=Stage.TRAIN, step=self.step, total_steps=100, percent=self.step)
        return ProgressReport(job_uid=self.uid, attempt=1, progress=progress, metrics=Metrics(loss=1.5)).to_json()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def stage_pod() -> Iterator[StagePod]:
    pod = StagePod()
    yield pod
    pod.close()


def test_nothing_is_written_while_nothing_changes(installed: Installation, stage_pod: StagePod) -> None:
    team = installed.team
    installed.operator(resync_seconds=5).start().wait_ready()
    stage_pod.uid = team.submit("training")["metadata"]["uid"]
    for name in ("ended", "waiting"):
        team.submit(name)
    team.submit("suspended", policy={"suspend": True})
    team.run_pod(team.advance_to("training", Stage.TRAIN), POD_ADDRESS)
    team.finish("ended")
    stage_pod.step = 40
    team.wait("progress is in status", lambda: team.status("training").get("progress", {}).get("step") == 40)
    team.wait("the suspension is told", lambda: team.phase("suspended") == "Suspended")
    time.sleep(1.0)
    work, readings = len(installed.gateway.work()), stage_pod.readings
    time.sleep(QUIET_SECONDS)
    assert installed.gateway.work()[work:] == []
    assert stage_pod.readings > readings, "the pod was read all the while"


def test_progress_is_written_no_more_often_than_it_is_read(installed: Installation, stage_pod: StagePod) -> None:
    team = installed.team
    installed.operator(progress_interval_seconds=1).start().wait_ready()
    stage_pod.uid = team.submit("training")["metadata"]["uid"]
    team.run_pod(team.advance_to("training", Stage.TRAIN), POD_ADDRESS)
    team.wait("the pod is read", lambda: stage_pod.readings)
    before, readings = len(installed.gateway.work()), stage_pod.readings
    for step in range(1, 61):
        stage_pod.step = step
        time.sleep(0.05)
    written = installed.gateway.work()[before:]
    assert set(written) == {"update finetunejobs/status"}
    assert len(written) <= stage_pod.readings - readings + 1
    assert team.status("training")["metrics"]["loss"] == "1.5"


def test_a_pod_that_says_nonsense_disturbs_nothing(installed: Installation, stage_pod: StagePod) -> None:
    team = installed.team
    installed.operator().start().wait_ready()
    team.submit("training")
    stage_pod.uid = "somebody else"
    team.run_pod(team.advance_to("training", Stage.TRAIN), POD_ADDRESS)
    team.wait("the pod is read", lambda: stage_pod.readings > 3)
    assert team.status("training")["progress"] == {"stage": "train", "step": 0, "totalSteps": 0, "percent": 0}
    team.finish("training")
    assert team.phase("training") == "Succeeded"
