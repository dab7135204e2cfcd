"""What users do to a job and its children, in each of the eight phases of a job."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from apiserver.gateway import Spoiled
from apiserver.team import Object
from faults.arena import Arena
from faults.cases import Case, Play, Record, calm
from faults.workloads import NAME, WORKLOADS, Actor
from finetune_api import names
from finetune_api.exit_codes import ExitCode
from finetune_api.status import Phase, Stage
from finetune_operator.core.identity import child_name

STAGE_OF = {
    Phase.PREPARING: Stage.PREPARE,
    Phase.TRAINING: Stage.TRAIN,
    Phase.EVALUATING: Stage.EVALUATE,
    Phase.EXPORTING: Stage.EXPORT,
}
CUT_OFF = Spoiled(0)


# How a job comes to a phase


def bring_to(actor: Actor, phase: Phase) -> None:
    """Submit the job and play until it is in the phase."""
    actor.submit()
    if phase is Phase.PENDING:
        return
    if phase is Phase.FAILED:
        actor.end(Stage.PREPARE, code=ExitCode.INVALID_DATA, message="train.jsonl:3: no prompt")
    elif phase is Phase.SUSPENDED:
        actor.end(Stage.PREPARE)
        actor.wait_for_pod(Stage.TRAIN)
        actor.change(suspend=True)
    else:
        _come_to(actor, STAGE_OF.get(phase))
    actor.arena.until(f"the job is {phase}", lambda: actor.phase is phase)


def _come_to(actor: Actor, stage: Stage | None) -> None:
    for one in Stage:
        if one is stage:
            actor.wait_for_pod(one)
            return
        actor.end(one)


# What is done


def _send(actor: Actor, method: str, path: str, body: object = None, kind: str = "json") -> None:
    actor.arena.insist(f"{method} {path}", lambda: actor.arena.team.send(method, path, body, kind))


def _delete(actor: Actor, resource: str, name: str, options: Mapping[str, object] | None = None) -> None:
    """Delete what is there; what is gone already is not worth a complaint."""

    def delete() -> None:
        if any(o["metadata"]["name"] == name for o in actor.arena.all(resource)):
            actor.arena.team.send("DELETE", actor.arena.team.path(resource, name), options)

    actor.arena.insist(f"{resource}/{name} is deleted", delete)


def _mine(actor: Actor, resource: str) -> list[Object]:
    uid = actor.arena.job(NAME)["metadata"]["uid"]
    return [o for o in actor.arena.all(resource) if (o["metadata"].get("labels") or {}).get(names.LABEL_JOB_UID) == uid]


def _current(actor: Actor) -> list[Object]:
    """The Job of the stage that was started last, if any."""
    children = actor.arena.status(NAME).get("children") or []
    return [job for job in _mine(actor, "jobs") if children and job["metadata"]["name"] == children[-1]["name"]]


def delete_in_foreground(actor: Actor) -> None:
    _delete(actor, "finetunejobs", NAME, {"propagationPolicy": "Foreground"})


def delete_with_a_finalizer(actor: Actor) -> None:
    path = actor.arena.team.path("finetunejobs", NAME)
    _send(actor, "PATCH", path, {"metadata": {"finalizers": ["example.com/wait"]}}, "merge-patch+json")
    _send(actor, "DELETE", path)
    actor.arena.breathe(1.0)
    _send(actor, "PATCH", path, {"metadata": {"finalizers": None}}, "merge-patch+json")


def recreate(actor: Actor) -> None:
    actor.delete()
    actor.submit()


def suspend_and_resume(actor: Actor) -> None:
    actor.change(suspend=True)
    if not actor.phase.terminal and not _cut_off(actor):
        actor.arena.until("the job is suspended", lambda: actor.phase is Phase.SUSPENDED)
        actor.arena.until("no pod is live", lambda: not _live_pods(actor))
    actor.change(suspend=False)


def suspend_and_resume_at_once(actor: Actor) -> None:
    actor.change(suspend=True)
    actor.change(suspend=False)


def resume(actor: Actor) -> None:
    actor.change(suspend=False)


def delete_current_job(actor: Actor) -> None:
    for job in _current(actor):
        _delete(actor, "jobs", job["metadata"]["name"], {"propagationPolicy": "Background"})


def delete_current_job_in_foreground(actor: Actor) -> None:
    for job in _current(actor):
        _delete(actor, "jobs", job["metadata"]["name"], {"propagationPolicy": "Foreground"})


def delete_every_job(actor: Actor) -> None:
    for job in _mine(actor, "jobs"):
        _delete(actor, "jobs", job["metadata"]["name"], {"propagationPolicy": "Background"})


def delete_pods(actor: Actor) -> None:
    for pod in _mine(actor, "pods"):
        _delete(actor, "pods", pod["metadata"]["name"])


def delete_pods_by_force(actor: Actor) -> None:
    for pod in _mine(actor, "pods"):
        _delete(actor, "pods", pod["metadata"]["name"], {"gracePeriodSeconds": 0})


def evict_pods(actor: Actor) -> None:
    for pod in _live_pods(actor):
        name = pod["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        _send(actor, "POST", f"{actor.arena.team.path('pods', name)}/eviction", eviction)


def delete_claim(actor: Actor) -> None:
    for claim in _mine(actor, "persistentvolumeclaims"):
        _delete(actor, "persistentvolumeclaims", claim["metadata"]["name"])


def delete_network_policies(actor: Actor) -> None:
    for policy in _mine(actor, "networkpolicies"):
        _delete(actor, "networkpolicies", policy["metadata"]["name"])


def raise_deadline(actor: Actor) -> None:
    actor.change(activeDeadlineSeconds=100_000)


def annotate(actor: Actor) -> None:
    for number in range(5):
        patch = {"metadata": {"annotations": {"touched": str(number)}}}
        _send(actor, "PATCH", actor.arena.team.path("finetunejobs", NAME), patch, "merge-patch+json")


def change_what_is_immutable(actor: Actor) -> None:
    client, path = actor.arena.ground.plane.client(), actor.arena.team.path("finetunejobs", NAME)
    patch = {"spec": {"model": {"source": "hf://another/model"}}}
    code, text = client.request("PATCH", path, patch, "application/merge-patch+json")
    assert code == 422, text


def strip_labels_of_current_job(actor: Actor) -> None:
    patch = {"metadata": {"labels": {names.LABEL_JOB_UID: None}}}
    for job in _current(actor):
        path = actor.arena.team.path("jobs", job["metadata"]["name"])
        _send(actor, "PATCH", path, patch, "merge-patch+json")


def suspend_current_job(actor: Actor) -> None:
    for job in [j for j in _current(actor) if not _ended(j)]:
        path = actor.arena.team.path("jobs", job["metadata"]["name"])
        _send(actor, "PATCH", path, {"spec": {"suspend": True}}, "merge-patch+json")


def take_the_next_name(actor: Actor) -> None:
    """Somebody else's Job has the name of the next stage's, and goes away a little later."""
    done = [child["stage"] for child in actor.arena.status(NAME).get("children") or []]
    stage = next((s for s in Stage if s not in done), None)
    if stage is None or actor.phase.terminal:
        return
    name = child_name(actor.arena.job(NAME), stage, 1)
    pod = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}}
    _send(actor, "POST", actor.arena.team.path("jobs"), {"metadata": {"name": name}, "spec": {"template": pod}})
    for one in Stage:
        if one is stage or _cut_off(actor) or actor.phase is Phase.SUSPENDED:
            break
        if one not in done[:-1]:
            actor.end(one)
    actor.arena.breathe(1.0)
    _delete(actor, "jobs", name, {"propagationPolicy": "Background"})


def exceed_deadline(actor: Actor) -> None:
    actor.change(activeDeadlineSeconds=1)


def expire(actor: Actor) -> None:
    actor.change(ttlSecondsAfterFinished=0)


def _cut_off(actor: Actor) -> bool:
    return actor.arena.cut_off


def _live_pods(actor: Actor) -> list[Object]:
    return [p for p in _mine(actor, "pods") if (p.get("status") or {}).get("phase") in ("Pending", "Running")]


def _ended(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or []
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


# What must come of it


def is_gone(actor: Actor, _phase: Phase) -> None:
    actor.arena.until("the job is gone", lambda: not actor.arena.job(NAME))
    actor.arena.until("nothing is left", lambda: not actor.arena.children())


def goes_on(actor: Actor, phase: Phase) -> None:
    """The job ends well; one that had ended stays as it was."""
    if phase is Phase.SUSPENDED:
        actor.change(suspend=False)
    actor.finish()
    want = phase if phase.terminal else Phase.SUCCEEDED
    assert actor.phase is want, f"found {actor.phase}, expected {want}: {actor.arena.status(NAME).get('message')}"


def begins_anew(actor: Actor, _phase: Phase) -> None:
    actor.finish()
    assert actor.phase is Phase.SUCCEEDED, f"found {actor.phase}: {actor.arena.status(NAME).get('message')}"


def is_overdue(actor: Actor, phase: Phase) -> None:
    if phase is Phase.SUSPENDED:
        actor.change(suspend=False)
    actor.wait_ended()
    want = phase if phase.terminal else Phase.FAILED
    assert actor.phase is want, f"found {actor.phase}, expected {want}"
    actor.arena.until("no pod is live", lambda: not _live_pods(actor))


def ends_and_is_gone(actor: Actor, phase: Phase) -> None:
    if phase is Phase.SUSPENDED:
        actor.change(suspend=False)

    def gone() -> bool:
        for pod in _live_pods(actor) if actor.arena.job(NAME) else []:
            labels = pod["metadata"]["labels"]
            if actor.pod(Stage(labels[names.LABEL_STAGE]), int(labels[names.LABEL_ATTEMPT])):
                actor.end(Stage(labels[names.LABEL_STAGE]), int(labels[names.LABEL_ATTEMPT]))
            actor.arena.breathe(0.1)
        return not actor.arena.job(NAME)

    actor.arena.until("the job ends and is deleted", gone)
    is_gone(actor, phase)


@dataclass(frozen=True)
class Action:
    """Something that a user does, and what must come of it."""

    do: Play
    then: Callable[[Actor, Phase], None] = goes_on

    @property
    def name(self) -> str:
        return self.do.__name__.strip("_").replace("_", "-")


def delete(actor: Actor) -> None:
    actor.delete()


ACTIONS = (
    Action(delete, is_gone),
    Action(delete_in_foreground, is_gone),
    Action(delete_with_a_finalizer, is_gone),
    Action(recreate, begins_anew),
    Action(suspend_and_resume),
    Action(suspend_and_resume_at_once),
    Action(resume),
    Action(delete_current_job),
    Action(delete_current_job_in_foreground),
    Action(delete_every_job),
    Action(delete_pods),
    Action(delete_pods_by_force),
    Action(evict_pods),
    Action(delete_claim),
    Action(delete_network_policies),
    Action(raise_deadline),
    Action(exceed_deadline, is_overdue),
    Action(expire, ends_and_is_gone),
    Action(annotate),
    Action(change_what_is_immutable),
    Action(strip_labels_of_current_job),
    Action(suspend_current_job),
    Action(take_the_next_name),
)


def cases() -> Iterator[Case]:
    for action in ACTIONS:
        for phase in Phase:
            yield Case(
                f"user/{action.name}/{phase.lower()}",
                WORKLOADS["success"],
                _cut_off_while_pending(phase),
                play=_play(action, phase),
                judge=nothing_again if phase.terminal and action.then is goes_on else calm,
            )


def _cut_off_while_pending(phase: Phase) -> Callable[[Arena], None]:
    """A job is Pending before the operator has seen it, so the operator is cut off until the user has acted."""

    def disturb(arena: Arena) -> None:
        if phase is Phase.PENDING:
            arena.cut_off = True
            arena.gateway.spoil = lambda _request: CUT_OFF

    return disturb


def _play(action: Action, phase: Phase) -> Play:
    def play(actor: Actor) -> None:
        bring_to(actor, phase)
        action.do(actor)
        actor.arena.injected.append(action.name)
        actor.arena.cut_off = False
        actor.arena.gateway.spoil = lambda _request: None
        action.then(actor, phase)

    return play


def nothing_again(record: Record, want: Record) -> Iterator[str]:
    """After the end of a job nothing is ever created a second time."""
    yield from (f"{name} was created {count} times" for name, count in record.creates.items() if count > 1)
    yield from calm(record, want)
