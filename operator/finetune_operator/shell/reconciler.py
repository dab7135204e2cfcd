"""One job, once: gather what is known, let the core plan, carry the plan out.

Level-triggered: it does not know why it was called. Everything durable is in the job's status, which is written first.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import structlog

from finetune_api import names
from finetune_api.contract import ProgressReport
from finetune_operator.core.actions import Deletion, Event, Patch, Plan, ProgressTarget
from finetune_operator.core.identity import owned_by, uid_of
from finetune_operator.core.lineage import awaited_parent
from finetune_operator.core.observed import Manifest, Observed, Refusal
from finetune_operator.shell.cluster import Cluster
from finetune_operator.shell.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    NotFoundError,
    NotLeaderError,
    RefusedError,
)
from finetune_operator.shell.kinds import FINE_TUNE_JOB, JOB, POD, UNWATCHED_CHILDREN, kind_named
from finetune_operator.shell.store import Store

log = structlog.get_logger()

Planner = Callable[[Observed], Plan]
"""The core's plan, at this moment and with this configuration."""


LOOK_AGAIN_SECONDS = 10.0
"""A job that was not found is looked for again so soon, unless its watch has told by then that it is gone."""


class CreateRefusedError(Exception):
    """A child could not be created; the job's condition tells, and it is tried again."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"cannot create {refusal.kind} {refusal.name}: {refusal.reason}: {refusal.message}")
        self.refusal = refusal


class JobGoneError(Exception):
    """The job is gone, or another one has its name."""


class Progress(Protocol):
    """Where the progress of running pods is read."""

    def follow(self, job: Manifest, target: ProgressTarget | None) -> None:
        """Read from this pod from now on, or from none."""
        ...

    def forget(self, uid: str) -> None:
        """Stop reading for a job."""
        ...

    def report(self, uid: str) -> ProgressReport | None:
        """What the followed pod of a job said last."""
        ...


class Reconciler:
    """Brings one job after the other nearer to its end."""

    def __init__(self, store: Store, cluster: Cluster, planner: Planner, progress: Progress) -> None:
        self._store = store
        self._cluster = cluster
        self._planner = planner
        self._progress = progress
        self._refusals: dict[str, Refusal] = {}

    async def reconcile(self, uid: str) -> float | None:
        """Do what is to be done for a job now; returns seconds until something is due without any event."""
        job = self._store.job(uid)
        if job is None:
            self._refusals.pop(uid, None)
            self._progress.forget(uid)
            return None
        with structlog.contextvars.bound_contextvars(**_identity(job)):
            try:
                return await self._carry_out(job, await self._plan(job))
            except JobGoneError:
                log.debug("the job is gone; its watch will tell")
                return LOOK_AGAIN_SECONDS

    async def _plan(self, job: Manifest) -> Plan:
        plan = self._planner(self._gather(job))
        if not plan.needs_confirmation:
            return plan
        log.debug("reading live before a decision", reason=plan.reason)
        return self._planner(await self._confirm(job))

    def _gather(self, job: Manifest) -> Observed:
        refusal = self._refusals.get(uid_of(job))
        jobs = self._store.children(job, JOB)
        return Observed(
            job=job,
            jobs=jobs,
            parent=self._store.named(job["metadata"]["namespace"], awaited_parent(job)),
            workloads=self._store.workloads(jobs),
            pods=self._store.children(job, POD),
            others=self._store.children(job, *UNWATCHED_CHILDREN),
            report=self._progress.report(uid_of(job)),
            refusals=(refusal,) if refusal else (),
        )

    async def _confirm(self, job: Manifest) -> Observed:
        """Read everything live, so that absence can be believed."""
        live = await self._read_live(job)
        selector = f"{names.LABEL_JOB_UID}={uid_of(job)}"
        for kind in (JOB, POD, *UNWATCHED_CHILDREN):
            listing = await self._cluster.list_all(kind, job["metadata"]["namespace"], selector)
            self._store.sync_children(job, kind, listing)
        return replace(self._gather(live), confirmed=True)

    async def _read_live(self, job: Manifest) -> Manifest:
        metadata = job["metadata"]
        try:
            live = await self._cluster.get(FINE_TUNE_JOB, metadata["namespace"], metadata["name"])
        except NotFoundError:
            raise JobGoneError from None
        if uid_of(live) != uid_of(job):
            raise JobGoneError
        self._store.put(live)
        return live

    async def _carry_out(self, job: Manifest, plan: Plan) -> float | None:
        """Status, create, patch, delete, events: the events also when something after the status failed."""
        job = await self._write_status(job, plan.status)
        try:
            had_refusal = await self._create_all(job, plan.create)
            await self._change_children(job, plan)
        finally:
            await self._tell(job, plan.events)
        self._progress.follow(job, plan.progress_from)
        return 0.0 if had_refusal else plan.requeue_after

    async def _write_status(self, job: Manifest, status: Manifest | None) -> Manifest:
        if status is None:
            return job
        try:
            written = await self._cluster.replace_status(job, status)
        except NotFoundError:
            raise JobGoneError from None
        except ConflictError:
            await self._read_live(job)
            raise
        self._store.put(written)
        if status.get("phase") != (job.get("status") or {}).get("phase"):
            log.info("the phase changed", phase=status.get("phase"), message=status.get("message"))
        return written

    async def _create_all(self, job: Manifest, manifests: tuple[Manifest, ...]) -> bool:
        """Create children; the answer is whether an earlier refusal has thereby been overcome."""
        uid = uid_of(job)
        try:
            for together in (manifests[:-1], manifests[-1:]):
                await self._create_together(job, together)
        except CreateRefusedError as error:
            self._refusals[uid] = error.refusal
            raise
        return self._refusals.pop(uid, None) is not None

    async def _create_together(self, job: Manifest, manifests: tuple[Manifest, ...]) -> None:
        """Create independent children; the first error is raised once all have been answered."""
        answers = await asyncio.gather(*(self._create(job, m) for m in manifests), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:
            raise errors[0]

    async def _create(self, job: Manifest, manifest: Manifest) -> None:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            child = await self._cluster.create(manifest)
        except AlreadyExistsError as error:
            child = await self._cluster.get(kind_named(kind), manifest["metadata"]["namespace"], name)
            if not owned_by(child, job):
                raise CreateRefusedError(Refusal(kind, name, "AlreadyExists", str(error))) from error
            child = await self._with_labels(child, manifest)
        except RefusedError as error:
            raise CreateRefusedError(Refusal(kind, name, error.reason, str(error))) from error
        else:
            log.debug("created a child", kind=kind, child=name)
        self._store.put(child)

    async def _with_labels(self, child: Manifest, wanted: Manifest) -> Manifest:
        """A Job whose labels somebody took away would be seen by no watch."""
        labels = wanted["metadata"]["labels"]
        if child["kind"] != JOB.name or labels.items() <= (child["metadata"].get("labels") or {}).items():
            return child
        patch = Patch("Job", child["metadata"]["name"], uid_of(child), {"metadata": {"labels": labels}})
        return await self._cluster.patch(child["metadata"]["namespace"], patch)

    async def _change_children(self, job: Manifest, plan: Plan) -> None:
        for patch in plan.patch:  # one that is not found is an error like any other: the next look shows what is there
            self._store.put(await self._cluster.patch(job["metadata"]["namespace"], patch))
            log.info("patched a child", child=patch.name, body=patch.body)
        for deletion in plan.delete:
            await self._delete(deletion)

    async def _delete(self, deletion: Deletion) -> None:
        """An object that is gone, or replaced by another one of its name, need not be deleted."""
        try:
            marked = await self._cluster.delete(deletion)
        except (NotFoundError, ConflictError):
            if await self._exists(deletion):
                raise
            marked = None
        else:
            log.info("deleted an object", kind=deletion.kind, child=deletion.name)
        if marked is None:
            self._store.remove(deletion.kind, deletion.uid)
        else:
            self._store.put(marked)

    async def _exists(self, deletion: Deletion) -> bool:
        """Whether the very object is there: one that was forgotten by mistake would never be deleted."""
        try:
            found = await self._cluster.get(kind_named(deletion.kind), deletion.namespace, deletion.name)
        except NotFoundError:
            return False
        return uid_of(found) == deletion.uid

    async def _tell(self, job: Manifest, events: tuple[Event, ...]) -> None:
        """Events are for people: one that cannot be written is logged, and nothing waits for it."""
        for event in events:
            try:
                await self._cluster.create_event(job, event)
            except (ApiError, NotLeaderError) as error:
                log.warning("cannot write an event", event_reason=event.reason, error=str(error))


def _identity(job: Manifest) -> dict[str, str]:
    return {key: job["metadata"][key] for key in ("namespace", "name", "uid")}
