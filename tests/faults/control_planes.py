"""etcd, the API server or the controller manager is killed or frozen while a stage runs."""

from collections.abc import Callable, Iterator

from faults.arena import Arena
from faults.cases import Case, Play
from faults.workloads import WORKLOADS, Actor
from finetune_api.status import Stage

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager")
DOWN_SECONDS = 3.0
FROZEN_SECONDS = 6.0
SECONDS = 180.0


def cases() -> Iterator[Case]:
    for component in COMPONENTS:
        for name, strike in (("killed", _kill), ("frozen", _freeze)):
            for stage in Stage:
                yield Case(
                    f"control-plane/{component}/{name}/{stage}",
                    WORKLOADS["success"],
                    lambda _arena: None,
                    play=_play(component, strike, stage),
                    seconds=SECONDS,
                    alone=True,
                )


def _kill(arena: Arena, component: str) -> None:
    arena.ground.plane.kill(component)
    arena.breathe(DOWN_SECONDS)
    arena.ground.plane.start(component)


def _freeze(arena: Arena, component: str) -> None:
    arena.ground.plane.pause(component)
    try:
        arena.breathe(FROZEN_SECONDS)
    finally:
        arena.ground.plane.resume(component)


def _play(component: str, strike: Callable[[Arena, str], None], stage: Stage) -> Play:
    """The stage's pod ends during the outage, as far as anybody can be told."""

    def play(actor: Actor) -> None:
        actor.submit()
        for one in Stage:
            if one is stage:
                actor.wait_for_pod(one)
                actor.arena.injected.append(f"{component} {strike.__name__}")
                strike(actor.arena, component)
            actor.end(one)
        actor.wait_ended()

    return play
