"""Names of images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Builder(StrEnum):
    """The program that built an image and keeps it."""

    BUILDAH = "buildah"
    DOCKER = "docker"


@dataclass(frozen=True)
class ImageRef:
    """An image in its builder's own store."""

    tag: str
    builder: Builder

    @property
    def repository(self) -> str:
        """The tag's name without registry and version: localhost/finetune-trainer:dev -> finetune-trainer."""
        path = self.tag.split("@")[0].rpartition("/")[2]
        return path.partition(":")[0]

    @property
    def version(self) -> str:
        """The tag's last part; `latest` where none is given."""
        return self.tag.rpartition("/")[2].partition(":")[2] or "latest"
