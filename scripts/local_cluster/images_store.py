"""buildah with a store of its own in our cache folder: images of other users of this machine are neither seen nor
touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from local_cluster.command import logged, run, succeeds
from local_cluster.locations import Locations


@dataclass(frozen=True)
class Store:
    """The folder that holds images, layers and the base image's files."""

    directory: Path

    def command(self, *arguments: str) -> list[str]:
        """A buildah call on this store."""
        folders = ["--root", str(self.directory / "storage"), "--runroot", str(self.directory / "run")]
        return ["buildah", *folders, *arguments]

    def buildah(self, *arguments: str) -> str:
        """Runs buildah quietly and returns its output."""
        return run(self.command(*arguments))

    def logged(self, log: Path, *arguments: str) -> None:
        """Runs buildah with its output in a log."""
        logged(self.command(*arguments), log)

    def has(self, tag: str) -> bool:
        """Whether an image of that name is there."""
        return succeeds(self.command("inspect", "--type", "image", tag))

    def image_id(self, tag: str) -> str:
        """The id of the image of that name."""
        return self.buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", tag).strip()


def of(locations: Locations) -> Store:
    """The store in the cache folder."""
    locations.images.mkdir(parents=True, exist_ok=True)
    return Store(locations.images)
