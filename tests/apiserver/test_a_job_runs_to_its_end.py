"""A FineTuneJob on a real API server with the real Job controller: four stages, few writes, then silence."""

import json
from collections import Counter
from typing import Any

import pytest

from apiserver.installation import Installation
from finetune_api.status import Stage

pytestmark = pytest.mark.apiserver

WANT_CREATED = {"persistentvolumeclaims": 1, "networkpolicies": 2, "jobs": 4}


def audited(installation: Installation) -> list[dict[str, Any]]:
    """What the API server's audit log says that the operator did in its namespace, Leases aside."""
    lines = installation.plane.audit_log.read_text().splitlines()
    entries = [json.loads(line) for line in lines if installation.account in line]
    return [e for e in entries if (e.get("objectRef") or {}).get("resource") not in (None, "leases")]


def verb_and_resource(entry: dict[str, Any]) -> str:
    reference = entry["objectRef"]
    part = f"/{reference['subresource']}" if "subresource" in reference else ""
    return f"{entry['verb']} {reference['resource']}{part}"


def test_a_job_goes_through_its_stages_with_creates_and_status_writes_only(
    installed_cluster_wide: Installation,
) -> None:
    team = installed_cluster_wide.team
    installed_cluster_wide.operator().start().wait_ready()
    team.submit("support-bot")
    team.finish("support-bot")
    status = team.status("support-bot")
    assert status["phase"] == "Succeeded"
    assert [c["stage"] for c in status["children"]] == [*Stage]
    assert {c["attempt"] for c in status["children"]} == {1}

    entries = [e for e in audited(installed_cluster_wide) if e["objectRef"].get("namespace") == team.namespace]
    assert {e["responseStatus"]["code"] for e in entries} <= {200, 201}, "no request was refused or came too late"
    writes = Counter(map(verb_and_resource, entries))
    assert {f"create {resource}": n for resource, n in WANT_CREATED.items()}.items() <= writes.items()
    others = set(writes) - {f"create {resource}" for resource in WANT_CREATED}
    assert others == {"create events", "update finetunejobs/status"}
    stages = len(Stage)
    assert writes["update finetunejobs/status"] <= 1 + 2 * stages, "at most a start and an end of each stage"


def test_objects_carry_no_mark_of_the_framework(installed: Installation) -> None:
    team = installed.team
    installed.operator().start().wait_ready()
    team.submit("support-bot")
    team.finish("support-bot")
    metadata = team.job("support-bot")["metadata"]
    assert "finalizers" not in metadata
    assert "kopf" not in json.dumps(metadata)
    assert {m["manager"] for m in metadata["managedFields"] if m.get("subresource")} == {"finetune-operator"}


def test_the_life_of_a_job_is_told_in_events(installed: Installation) -> None:
    team = installed.team
    installed.operator().start().wait_ready()
    uid = team.submit("support-bot")["metadata"]["uid"]
    team.finish("support-bot")

    def told() -> list[str]:
        return [e["reason"] for e in team.list_all("events") if e.get("regarding", {}).get("uid") == uid]

    team.wait("the end is told", lambda: "Succeeded" in told())
    assert sorted(told()) == ["Evaluated", "Prepared", "Succeeded", "Trained"]
