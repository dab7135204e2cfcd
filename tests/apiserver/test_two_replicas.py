"""Two replicas: one writes, the other takes over, never both."""

import time

import pytest

from apiserver.gateway import Request
from apiserver.installation import Installation
from finetune_api.status import Stage

pytestmark = pytest.mark.apiserver

FAST = {"lease_duration_seconds": 3, "lease_renew_deadline_seconds": 2, "lease_retry_seconds": 0.3}


def test_one_replica_writes_and_the_other_takes_over_when_it_dies(installed: Installation) -> None:
    team = installed.team
    replicas = [installed.operator(identity=name, **FAST) for name in ("first", "second")]
    writers: list[str] = []
    for replica, gateway in zip(("first", "second"), installed.gateways, strict=True):

        def note(_request: Request, replica: str = replica) -> None:
            writers.append(replica)

        gateway.after_write = note
    replicas[0].start().wait_ready()
    team.wait("the first replica leads", lambda: "finetune_leader 1.0" in replicas[0].ask("/metrics")[1])
    replicas[1].start().wait_ready()
    team.submit("support-bot")
    team.advance_to("support-bot", Stage.TRAIN)
    assert set(writers) == {"first"}
    replicas[0].kill()
    team.finish("support-bot")
    assert team.phase("support-bot") == "Succeeded"
    assert writers == sorted(writers), "the first never wrote after the second began"
    assert "second" in writers
    assert team.status("support-bot")["attempts"]["count"] == len(Stage)


def test_a_leader_that_is_cut_off_from_its_lease_stops_writing(installed: Installation) -> None:
    team = installed.team
    operator = installed.operator(**FAST)
    operator.start().wait_ready()
    team.wait("it leads", lambda: "finetune_leader 1.0" in operator.ask("/metrics")[1])
    lease = team.send("GET", team.path("leases", "finetune-operator"))
    taken = {"spec": {"holderIdentity": "somebody else", "leaseDurationSeconds": 3}}
    team.change("leases", lease["metadata"]["name"], taken)
    team.wait("it stops leading", lambda: "finetune_leader 0.0" in operator.ask("/metrics")[1])
    before = len(installed.gateway.work())
    team.submit("support-bot")
    time.sleep(0.5)
    assert installed.gateway.work()[before:] == []
    team.wait("it leads again and works", lambda: team.phase("support-bot") == "Preparing")
