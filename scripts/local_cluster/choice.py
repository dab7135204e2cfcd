"""Decides which Kubernetes is used: the one the user names, else kind where Docker answers, else one started on this
host.

Pure: what was found on the machine comes in, a choice or the reason why there is none goes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Provider(StrEnum):
    """Who runs the cluster."""

    CONTEXT = "context"
    KIND = "kind"
    HOST = "host"


@dataclass(frozen=True)
class Surroundings:
    """What matters of this machine."""

    context: str | None = None
    docker_answers: bool = False
    system: str = "linux"
    root: bool = False


@dataclass(frozen=True)
class Choice:
    """The provider and why it was taken; `provider` is None when nothing can be started here."""

    provider: Provider | None
    reason: str
    context: str | None = None


_NO_WAY = (
    "no Kubernetes can be started here: Docker does not answer (`docker info`), and {obstacle}. "
    "Start Docker, or name a cluster of yours: KUBE_CONTEXT=<context of your kubeconfig>."
)


def choose(found: Surroundings) -> Choice:
    """The first of the three ways that is open."""
    if found.context:
        return Choice(Provider.CONTEXT, f"the context {found.context} was named", found.context)
    if found.docker_answers:
        return Choice(Provider.KIND, "Docker answers")
    if found.system != "linux":
        return Choice(None, _NO_WAY.format(obstacle=f"a cluster on the host itself needs Linux, not {found.system}"))
    if not found.root:
        return Choice(None, _NO_WAY.format(obstacle="a cluster on the host itself needs root"))
    return Choice(Provider.HOST, "Docker does not answer, so upstream components run on this host")
