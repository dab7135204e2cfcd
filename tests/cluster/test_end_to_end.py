"""FineTuneJobs on a real cluster, with real pods: what a user sees when all goes well, and when it does not."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster_jobs import FineTuneJobs
from demo.installation import NAMESPACE as OPERATOR_NAMESPACE
from s3_server import S3Server

pytestmark = pytest.mark.cluster

STAGES = ["prepare", "train", "evaluate", "export"]
PHASES = {"prepare": "Preparing", "train": "Training", "evaluate": "Evaluating", "export": "Exporting"}


def test_a_job_ends_with_a_tuned_evaluated_and_exported_model(jobs: FineTuneJobs) -> None:
    exports = [
        {"name": "adapter", "format": "peft"},
        {"name": "merged", "format": "safetensors"},
        {"name": "onnx", "format": "onnx", "precision": "fp32"},
    ]
    jobs.create("good", exports=exports, output={"destination": "pvc://models/good", "workspace": {"size": "1Gi"}})
    status = jobs.wait_phase("good", "Succeeded", 400)
    assert [
        c["status"] for c in status["conditions"] if c["type"] in ("Prepared", "Trained", "Evaluated", "Exported")
    ] == ["True"] * 4
    assert [(a["name"], a["uri"]) for a in status["artifacts"]] == [
        (e["name"], f"pvc://models/good/{e['name']}") for e in exports
    ]
    assert all(a["digest"].startswith("sha256:") and a["sizeBytes"] > 0 for a in status["artifacts"])
    assert status["artifacts"][2]["parity"]["passed"] is True
    assert status["progress"]["percent"] == 100
    assert len(status["history"]) >= 2
    assert status["plan"]["model"]["architecture"] == "LlamaForCausalLM"
    assert set(status["evaluation"]["baseline"]) == set(status["evaluation"]["tuned"])
    _assert_columns(jobs)
    jobs.delete("good")
    jobs.wait_nothing_left("good")


def _assert_columns(jobs: FineTuneJobs) -> None:
    header, row = jobs.kubectl("get", "ftj", "good", "-n", jobs.namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "METHOD", "MODEL", "PROGRESS%", "LOSS", "EVAL", "ETA(S)", "AGE"]
    assert row.split()[:4] == ["good", "Succeeded", "lora", "pvc://assets/tiny-llama"]
    described = jobs.kubectl("describe", "ftj", "good", "-n", jobs.namespace)
    for reason in ("Prepared", "Trained", "Evaluated", "Succeeded"):
        assert f"Normal  {reason}" in described


def test_bad_data_is_refused_in_preparing_and_no_training_pod_is_made(jobs: FineTuneJobs) -> None:
    jobs.create("bad-data", dataset={"train": {"source": "pvc://assets/data/bad.jsonl"}})
    status = jobs.wait_phase("bad-data", "Failed")
    prepared = next(c for c in status["conditions"] if c["type"] == "Prepared")
    assert (prepared["status"], prepared["reason"]) == ("False", "InvalidData")
    assert "bad.jsonl" in prepared["message"]
    assert "line 12" in prepared["message"]
    assert [c["stage"] for c in status["children"]] == ["prepare"]
    jobs.delete("bad-data")


def test_a_wrong_model_path_names_what_is_there_instead(jobs: FineTuneJobs) -> None:
    jobs.create("bad-model", model={"source": "pvc://assets/tiny-lama"})
    status = jobs.wait_phase("bad-model", "Failed")
    assert "pvc://assets/tiny-lama" in status["message"]
    assert "tiny-llama" in status["message"]
    jobs.delete("bad-model")


def test_a_pod_that_is_out_of_memory_fails_the_job_with_the_limit_and_a_remedy(jobs: FineTuneJobs) -> None:
    jobs.create("oom", training={"maxSteps": 100000, "batchSize": 4})
    pod = jobs.wait_running("oom", "train")
    jobs.wait("oom", lambda status: status.get("progress", {}).get("step", 0) > 0)
    # Many processes, each smaller than the trainer, so that the kernel's choice at the limit is the trainer.
    grow = "[os.fork() or (bytearray(250 << 20), time.sleep(60), os._exit(0)) for _ in range(16)]"
    hog = f"import os, time\n{grow}\ntime.sleep(60)"
    jobs.kubectl("exec", "-n", jobs.namespace, pod, "--", "python", "-c", hog, check=False)
    status = jobs.wait_phase("oom", "Failed")
    trained = next(c for c in status["conditions"] if c["type"] == "Trained")
    assert trained["reason"] == "OutOfMemory"
    assert "3Gi" in trained["message"]
    assert "resources.memory" in trained["message"]
    jobs.delete("oom")


def test_a_job_from_bucket_to_bucket_whose_operator_is_killed_in_every_phase_still_ends_right(
    jobs: FineTuneJobs, bucket: S3Server
) -> None:
    keys = {"credentials": {"secretRef": "s3-keys"}}
    jobs.create(
        "survivor",
        dataset={"train": {"source": "s3://data/good.jsonl", **keys}},
        output={"destination": "s3://models/survivor", "workspace": {"size": "1Gi"}, **keys},
    )
    for stage in STAGES:
        jobs.wait_running("survivor", stage)
        _kill_operator(jobs)
    status = jobs.wait_phase("survivor", "Succeeded", 400)
    assert [(c["stage"], c["attempt"]) for c in status["children"]] == [(stage, 1) for stage in STAGES]
    assert status["attempts"]["count"] == len(STAGES)
    listed = jobs.kubectl("get", "jobs", "-n", jobs.namespace, "-l", "slmops.dev/job-name=survivor", "-o", "json")
    assert len(json.loads(listed)["items"]) == len(STAGES)
    [adapter, *_] = status["artifacts"]
    assert adapter["uri"] == f"s3://models/survivor/{adapter['name']}"
    published = bucket.objects("models")
    assert json.loads(published["survivor/report.json"])["complete"]
    assert f"survivor/{adapter['name']}/adapter_model.safetensors" in published
    jobs.delete("survivor")


def _kill_operator(jobs: FineTuneJobs) -> None:
    selector = "app.kubernetes.io/name=finetune-operator"
    jobs.kubectl(
        "delete", "pod", "-n", OPERATOR_NAMESPACE, "-l", selector, "--grace-period=0", "--force", "--wait=true"
    )


def test_a_job_deleted_in_any_phase_leaves_nothing(jobs: FineTuneJobs) -> None:
    def delete_in(stage: str) -> None:
        name = f"deleted-in-{stage}"
        jobs.create(name)
        jobs.wait_running(name, stage)
        jobs.delete(name)
        jobs.wait_nothing_left(name)

    with ThreadPoolExecutor(len(STAGES)) as pool:  # side by side: a pod that is awaited leaves the cores to others
        for deleted in [pool.submit(delete_in, stage) for stage in STAGES]:
            deleted.result()


def test_training_that_is_interrupted_or_suspended_goes_on_from_its_checkpoint(jobs: FineTuneJobs) -> None:
    jobs.create("evicted", training={"maxSteps": 4000, "batchSize": 4, "logEvery": 1, "checkpointEvery": 5})
    pod = jobs.wait_running("evicted", "train")
    jobs.wait("evicted", lambda status: status.get("checkpoint", {}).get("step", 0) > 0)
    jobs.kubectl("delete", "pod", "-n", jobs.namespace, pod)
    status = jobs.wait("evicted", lambda s: s.get("attempts", {}).get("disruptions") == 1)
    assert status["attempts"]["lastReason"] == "Preempted"
    stopped_at = status["checkpoint"]["step"]
    jobs.wait("evicted", lambda s: s["attempts"]["count"] == 3 and s["progress"]["step"] > stopped_at)
    _suspend_and_resume(jobs, "evicted")
    jobs.delete("evicted")
    jobs.wait_nothing_left("evicted")


def _suspend_and_resume(jobs: FineTuneJobs, name: str) -> None:
    """Suspending ends the pod after a checkpoint; resuming goes on from it, in the same attempt."""
    pod = jobs.wait_running(name, "train")
    jobs.suspend(name)
    before = jobs.wait_phase(name, "Suspended")
    jobs.kubectl("wait", "--for=delete", f"pod/{pod}", "-n", jobs.namespace, "--timeout=150s")
    assert "activeSince" not in jobs.status(name)
    jobs.suspend(name, False)
    assert jobs.wait_running(name, "train") != pod
    after = jobs.wait(name, lambda s: s["progress"]["step"] > before["progress"]["step"])
    assert after["checkpoint"]["step"] >= before["progress"]["step"], "the last steps were saved when it was suspended"
    assert after["attempts"] == before["attempts"]
