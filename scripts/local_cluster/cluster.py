"""What every way to a Kubernetes offers, whichever was chosen."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from local_cluster.image_reference import ImageRef


@dataclass(frozen=True)
class Status:
    """What runs, and what is missing for it to be healthy."""

    provider: str
    kubeconfig: str
    version: str | None = None
    nodes: dict[str, bool] = field(default_factory=dict)
    components: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Nothing is missing."""
        return not self.missing

    def as_json(self) -> dict[str, Any]:
        """For `status --json`."""
        return {"healthy": self.healthy, **asdict(self)}


class Cluster(Protocol):
    """A cluster that this tool starts, or only uses."""

    @property
    def kubeconfig(self) -> Path:
        """The file to name in KUBECONFIG."""
        ...

    def up(self) -> None:
        """Brings the cluster up, or brings the rest of it up."""
        ...

    def status(self) -> Status:
        """What runs now."""
        ...

    def down(self) -> None:
        """Takes away what `up` made."""
        ...

    def load(self, image: ImageRef) -> str:
        """Makes the image available to pods and returns the reference they use."""
        ...
