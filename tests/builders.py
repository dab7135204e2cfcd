"""Test objects, made only here: a job as a user writes it, and what Kubernetes would show of its children."""

from __future__ import annotations

import copy
import itertools
from datetime import UTC, datetime
from typing import Any

from finetune_api import names
from finetune_api.contract import StageResult
from finetune_api.status import (
    Artifact,
    DatasetReport,
    Evaluation,
    MemoryPlan,
    Plan,
    PlannedMethod,
    PlannedModel,
    PlannedTraining,
    Stage,
)
from finetune_operator.core.configuration import Configuration
from finetune_operator.core.queueing import QUEUE_LABEL
from finetune_operator.core.timestamps import stamp

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
CONFIGURATION = Configuration(trainer_image="registry.local/finetune-trainer@sha256:" + "0" * 64)
_uids = itertools.count(1)


class JobBuilder:
    """A FineTuneJob, the smallest one unless told otherwise."""

    def __init__(self, name: str = "support-bot", namespace: str = "team-a") -> None:
        self._document: dict[str, Any] = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name, "namespace": namespace, "uid": f"job-{next(_uids)}", "generation": 1},
            "spec": {
                "model": {"source": "pvc://models/smollm2"},
                "dataset": {"train": {"source": "pvc://datasets/train.jsonl"}},
            },
        }

    def with_spec(self, **sections: Any) -> JobBuilder:
        self._document["spec"] = _merged(self._document["spec"], sections)
        return self

    def suspended(self, value: bool = True) -> JobBuilder:
        return self.with_spec(policy={"suspend": value})

    def in_queue(self, queue: str, **labels: str) -> JobBuilder:
        self._document["metadata"]["labels"] = {QUEUE_LABEL: queue, **labels}
        return self

    def deleted(self) -> JobBuilder:
        self._document["metadata"]["deletionTimestamp"] = stamp(NOW)
        return self

    def obj(self) -> dict[str, Any]:
        return copy.deepcopy(self._document)


def make_job(name: str = "support-bot", namespace: str = "team-a") -> JobBuilder:
    return JobBuilder(name, namespace)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        result[key] = _merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value
    return result


def job_from(manifest: dict[str, Any], uid: str = "", created: datetime = NOW) -> dict[str, Any]:
    """The batch/v1 Job that the API server stores for a manifest of ours."""
    stored = copy.deepcopy(manifest)
    stored["metadata"] |= {"uid": uid or f"child-{next(_uids)}", "creationTimestamp": stamp(created)}
    return stored


def workload_of(job: dict[str, Any]) -> dict[str, Any]:
    """What Kueue keeps for a Job in one of its queues; a merge patch changes it."""
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": {
            "name": f"job-{job['metadata']['name']}-1a2b3",
            "namespace": job["metadata"]["namespace"],
            "uid": f"workload-{next(_uids)}",
            "ownerReferences": [{"kind": "Job", "uid": job["metadata"]["uid"], "controller": True}],
        },
        "spec": {"active": True},
        "status": {},
    }


def merged(document: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """`document` after a JSON merge patch (RFC 7386)."""
    result = dict(document)
    for key, value in patch.items():
        result[key] = merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return {key: value for key, value in result.items() if value is not None}


def finished(job: dict[str, Any], kind: str, at: datetime = NOW, message: str = "") -> dict[str, Any]:
    """`job` with the condition Complete or Failed."""
    result = copy.deepcopy(job)
    result["status"] = {
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": stamp(at), "message": message}]
    }
    return result


class PodBuilder:
    """A pod of a stage's Job."""

    def __init__(self, job: dict[str, Any], suffix: str = "abcde", created: datetime = NOW) -> None:
        template = copy.deepcopy(job["spec"]["template"])
        self._document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{job['metadata']['name']}-{suffix}",
                "namespace": job["metadata"]["namespace"],
                "uid": f"pod-{next(_uids)}",
                "creationTimestamp": stamp(created),
                **template["metadata"],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }

    def running(self, ip: str = "10.88.0.7") -> PodBuilder:
        started = self._document["metadata"]["creationTimestamp"]
        self._status("Running", {"running": {"startedAt": started}})
        self._document["status"] |= {"podIP": ip, "startTime": started}
        return self

    def waiting(self, reason: str, message: str = "") -> PodBuilder:
        self._status("Pending", {"waiting": {"reason": reason, "message": message}})
        return self

    def unschedulable(self, message: str) -> PodBuilder:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._document["status"]["conditions"] = [condition]
        return self

    def ended(self, exit_code: int, message: str = "", reason: str = "", at: datetime | None = None) -> PodBuilder:
        terminated = {
            "exitCode": exit_code,
            "message": message,
            "reason": reason or ("Completed" if not exit_code else "Error"),
        }
        if at is not None:
            self._document["status"]["startTime"] = self._document["metadata"]["creationTimestamp"]
            terminated["finishedAt"] = stamp(at)
        self._status("Failed" if exit_code else "Succeeded", {"terminated": terminated})
        return self

    def disrupted(self, uid: str) -> PodBuilder:
        """Ended by the cluster, so that the Job controller replaces it."""
        self.ended(137)
        self._document["metadata"]["uid"] = uid
        self._document["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]
        return self

    def evicted(self) -> PodBuilder:
        self._document["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}
        return self

    def _status(self, phase: str, state: dict[str, Any]) -> None:
        container = {"name": names.STAGE_CONTAINER, "state": state, "imageID": CONFIGURATION.trainer_image}
        self._document["status"] |= {"phase": phase, "containerStatuses": [container]}

    def obj(self) -> dict[str, Any]:
        return copy.deepcopy(self._document)


def pod_of(job: dict[str, Any], suffix: str = "abcde", created: datetime = NOW) -> PodBuilder:
    return PodBuilder(job, suffix, created)


def make_plan(eval_rows: int = 10) -> Plan:
    """A resolved plan of a small LoRA job."""
    return Plan(
        model=PlannedModel(
            source="pvc://models/smollm2",
            digest="sha256:" + "1" * 64,
            architecture="LlamaForCausalLM",
            parameters=134_515_008,
            trainable_parameters=4_884_480,
            context_length=8192,
        ),
        method=PlannedMethod(type="lora", rank=16, alpha=32, target_modules=["q_proj", "v_proj"]),
        training=PlannedTraining(
            objective="sft",
            total_steps=100,
            epochs=1.0,
            batch_size=8,
            micro_batch_size=8,
            gradient_accumulation_steps=1,
            learning_rate=5e-4,
            warmup_steps=3,
            scheduler="cosine",
            optimizer="adamw",
            max_length=64,
            packing=False,
            loss_on="completion",
            precision="bf16",
            gradient_checkpointing=False,
            attention="sdpa",
            eval_every=50 if eval_rows else 0,
            checkpoint_every=50,
            log_every=10,
        ),
        strategy="none",
        metrics=["eval_loss", "exact-match"],
        exports=[],
        memory=MemoryPlan(
            weights=1, gradients=1, optimizer=1, activations=1, logits=1, runtime=1, estimated_bytes=6, limit_bytes=10
        ),
    )


def make_result(stage: Stage, eval_rows: int = 10) -> StageResult:
    """What a stage reports that ended well."""
    if stage is Stage.PREPARE:
        dataset = DatasetReport(format="prompt-completion", train_rows=100, eval_rows=eval_rows)
        return StageResult(stage=stage, outcome="Succeeded", plan=make_plan(eval_rows), dataset=dataset)
    if stage is Stage.EVALUATE:
        evaluation = Evaluation(rows=10, baseline={"exact-match": 0.0}, tuned={"exact-match": 0.86})
        return StageResult(stage=stage, outcome="Succeeded", evaluation=evaluation)
    if stage is Stage.EXPORT:
        artifact = Artifact(
            name="adapter", format="peft", uri="pvc://w/adapter", size_bytes=1, digest="sha256:" + "2" * 64
        )
        return StageResult(stage=stage, outcome="Succeeded", artifacts=[artifact])
    return StageResult(stage=stage, outcome="Succeeded")
