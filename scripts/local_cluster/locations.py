"""Where things are kept: what can be made again in the XDG cache folder, what belongs to a running cluster in the XDG
state folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = "finetune-operator"
LONGEST_SOCKET_PATH = 107  # sun_path holds 108 bytes, the last of them zero


@dataclass(frozen=True)
class Locations:
    """The two folders of this tool, and what lies at their top."""

    cache: Path
    state: Path

    @property
    def binaries(self) -> Path:
        """Programs, by name and version."""
        return self.cache / "bin"

    @property
    def images(self) -> Path:
        """The image store."""
        return self.cache / "images"

    @property
    def images_lock(self) -> Path:
        """Held while an image is built or pushed."""
        return self.images / "in-use.lock"

    @property
    def cluster(self) -> Path:
        """Everything of the cluster on this host."""
        return self.state / "cluster"

    @property
    def lock(self) -> Path:
        """Held while a command changes something."""
        return self.state / "cluster.lock"


def from_environment(environment: Mapping[str, str] = os.environ) -> Locations:
    """The folders that the XDG base directory specification names."""
    home = Path(environment.get("HOME") or Path.home())
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    state = Path(environment.get("XDG_STATE_HOME") or home / ".local" / "state")
    return Locations(cache=cache / PROJECT, state=state / PROJECT)
