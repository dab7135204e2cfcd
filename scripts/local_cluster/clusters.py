"""Looks at this machine, chooses a cluster, and remembers the choice: `down` must end what `up` started, whatever
changed since.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from local_cluster import host_layout, images, locations
from local_cluster.choice import Choice, Provider, Surroundings, choose
from local_cluster.cluster import Cluster
from local_cluster.errors import LocalClusterError
from local_cluster.host_cluster import HostCluster
from local_cluster.kind_cluster import KindCluster
from local_cluster.locations import Locations
from local_cluster.named_context import NamedContext
from local_cluster.progress import say


def look_around(context: str | None, environment: Mapping[str, str] = os.environ) -> Surroundings:
    """What of this machine matters for the choice."""
    named = context or environment.get("KUBE_CONTEXT")
    return Surroundings(
        context=named,
        docker_answers=not named and images.docker_answers(),
        system=platform.system().lower(),
        root=os.geteuid() == 0,
    )


def choose_now(context: str | None = None) -> Cluster:
    """The choice for `up`: an earlier one stands until `down`, unless a context is named."""
    where = locations.from_environment()
    found = look_around(context)
    if found.context is None and _record(where).exists():
        return chosen()
    choice = choose(found)
    say(f"using {choice.provider}: {choice.reason}" if choice.provider else choice.reason)
    cluster = _cluster(choice, where)
    _remember(choice, where)
    return cluster


def chosen(context: str | None = None) -> Cluster:
    """The cluster that `up` chose; without one, what it would choose."""
    where = locations.from_environment()
    record = _record(where)
    if context is None and record.exists():
        known = json.loads(record.read_text())
        return _cluster(Choice(Provider(known["provider"]), "chosen earlier", known["context"]), where)
    return _cluster(choose(look_around(context)), where)


def forget() -> None:
    """After `down`, the next `up` chooses anew."""
    _record(locations.from_environment()).unlink(missing_ok=True)


def _cluster(choice: Choice, where: Locations) -> Cluster:
    if choice.provider is Provider.CONTEXT:
        return NamedContext(choice.context or "", where)
    if choice.provider is Provider.KIND:
        return KindCluster(where)
    if choice.provider is Provider.HOST:
        return HostCluster(host_layout.from_environment(where))
    raise LocalClusterError(choice.reason)


def _record(where: Locations) -> Path:
    return where.state / "choice.json"


def _remember(choice: Choice, where: Locations) -> None:
    where.state.mkdir(parents=True, exist_ok=True)
    fresh = _record(where).with_suffix(".new")
    fresh.write_text(json.dumps({"provider": choice.provider, "context": choice.context}))
    fresh.rename(_record(where))
