"""Brings an image's layers into the registry on this host as they are.

buildah compresses every layer that it pushes, and containerd takes them apart again: minutes for an image of 2 GB, to
save space on the same disk. So the layers go there uncompressed first; buildah then finds them and pushes the rest.
"""

from __future__ import annotations

import http.client
import json
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from local_cluster.errors import LocalClusterError
from local_cluster.images_store import Store

OCTETS = "application/octet-stream"
_CREATED = 201
_ACCEPTED = 202


def seed(store: Store, tag: str, registry: str, repository: str) -> None:
    """Uploads the layers, unless the registry has all but the last: that one is small, and changes often."""
    target = _Repository(registry, repository)
    if all(target.has(digest) for digest in layer_digests(store, tag)[:-1]):
        return
    with tempfile.TemporaryDirectory(dir=store.directory, prefix="layers-") as folder:
        store.buildah("push", "--quiet", "--disable-compression", tag, f"dir:{folder}")
        for digest in manifest_layers((Path(folder) / "manifest.json").read_text()):
            if not target.has(digest):
                target.upload(digest, Path(folder) / digest.removeprefix("sha256:"))


def layer_digests(store: Store, tag: str) -> list[str]:
    """The digests of the image's uncompressed layers, the lowest first."""
    shown = json.loads(store.buildah("inspect", "--type", "image", tag))
    digests: list[str] = shown["OCIv1"]["rootfs"]["diff_ids"]
    return digests


def manifest_layers(manifest: str) -> list[str]:
    """The digests of the layers that an image manifest names."""
    return [layer["digest"] for layer in json.loads(manifest)["layers"]]


class _Repository:
    """One repository of a registry that speaks plain http."""

    def __init__(self, registry: str, name: str) -> None:
        self._registry = registry
        self._blobs = f"/v2/{name}/blobs"

    def has(self, digest: str) -> bool:
        return self._request("HEAD", f"{self._blobs}/{digest}")[0] == http.client.OK

    def upload(self, digest: str, blob: Path) -> None:
        status, location = self._request("POST", f"{self._blobs}/uploads/")
        self._require(status, _ACCEPTED, digest)
        parts = urlsplit(location)
        path = f"{parts.path}?{parts.query}&digest={digest}" if parts.query else f"{parts.path}?digest={digest}"
        self._require(self._request("PUT", path, blob)[0], _CREATED, digest)

    def _request(self, method: str, path: str, blob: Path | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._registry, timeout=300)
        try:
            if blob is None:
                connection.request(method, path)
            else:
                with blob.open("rb") as content:
                    headers = {"Content-Type": OCTETS, "Content-Length": str(blob.stat().st_size)}
                    connection.request(method, path, content, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("Location", "")
        finally:
            connection.close()

    def _require(self, status: int, wanted: int, digest: str) -> None:
        if status != wanted:
            raise LocalClusterError(f"the registry {self._registry} answered {status} to the upload of layer {digest}")
