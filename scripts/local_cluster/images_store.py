"""buildah with a store of its own in our cache folder: images of other users of this machine are neither seen nor
touched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
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

    def prune(self, made_before: datetime) -> None:
        """Removes images without a name that are older and that no other one is made of: steps of earlier builds.

        Steps that the next build would have found again are among them; it then makes them anew.
        """
        unnamed = json.loads(self.buildah("images", "--all", "--filter", "dangling=true", "--json") or "[]")
        outdated = [image["id"] for image in unnamed if image["created"] < made_before.timestamp()]
        if outdated:
            succeeds(self.command("rmi", *outdated))  # one that a build uses at this moment stays

    def image_id(self, tag: str) -> str:
        """The id of the image of that name."""
        return self.buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", tag).strip()


def of(locations: Locations) -> Store:
    """The store in the cache folder."""
    locations.images.mkdir(parents=True, exist_ok=True)
    return Store(locations.images)
