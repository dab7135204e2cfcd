"""model.source: job://name on a real API server: it waits, begins by itself, and outlives the other job."""

import json

import pytest

from apiserver.installation import Installation
from builders import make_result
from finetune_api import names
from finetune_api.status import Artifact, Stage

pytestmark = pytest.mark.apiserver
DIGEST = "sha256:" + "7" * 64


def test_a_job_begins_when_the_job_that_makes_its_model_has_published_it(installed: Installation) -> None:
    team = installed.team
    installed.operator().start().wait_ready()
    team.submit("second", model={"source": "job://first"})
    team.wait("it says what it waits for", lambda: "does not exist" in team.status("second").get("message", ""))
    team.submit("first")
    team.wait("it says how far that is", lambda: "published nothing" in team.status("second")["message"], seconds=30)
    pod = team.advance_to("first", Stage.EXPORT)
    merged = Artifact(name="m", format="safetensors", uri="pvc://models/first/m", size_bytes=1, digest=DIGEST)
    exported = make_result(Stage.EXPORT).model_copy(update={"artifacts": [merged]})
    team.end_pod(pod, exported.termination_message())
    team.wait("it begins", lambda: team.stage_pods("second"), seconds=30)
    team.delete("finetunejobs", "first")
    team.finish("second")
    assert team.phase("second") == "Succeeded"
    [nearest] = team.status("second")["lineage"]
    assert (nearest["job"], nearest["digest"]) == ("first", DIGEST)
    requests = [job["spec"]["template"]["metadata"]["annotations"] for job in team.list_all("jobs")]
    sources = [json.loads(annotations[names.ANNOTATION_REQUEST])["spec"]["model"]["source"] for annotations in requests]
    assert sources == ["pvc://models/first/m"] * len(Stage)
