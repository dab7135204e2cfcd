"""Writes an image of one static program without any image tool: an OCI layout in a tar file, always the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

_OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class _Blob:
    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def descriptor(self) -> dict[str, object]:
        return {"mediaType": self.media_type, "digest": f"sha256:{self.digest}", "size": len(self.content)}


def write(target: Path, program: Path, name: str, architecture: str) -> None:
    """An image called `name` that holds and starts the program."""
    layer = _Blob(f"{_OCI}.layer.v1.tar", _tar({program.name: program.read_bytes()}, mode=0o755))
    config = _json(f"{_OCI}.config.v1+json", _config(program.name, layer, architecture))
    manifest = _json(f"{_OCI}.manifest.v1+json", _manifest(config, layer))
    named = manifest.descriptor() | {"annotations": {"io.containerd.image.name": name}}
    files = {f"blobs/sha256/{blob.digest}": blob.content for blob in (layer, config, manifest)}
    files["oci-layout"] = _encode({"imageLayoutVersion": "1.0.0"})
    files["index.json"] = _encode({"schemaVersion": 2, "manifests": [named]})
    target.write_bytes(_tar(files, mode=0o644))


def _config(program: str, layer: _Blob, architecture: str) -> dict[str, object]:
    return {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": [f"/{program}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}"]},
    }


def _manifest(config: _Blob, layer: _Blob) -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    }


def _json(media_type: str, document: dict[str, object]) -> _Blob:
    return _Blob(media_type, _encode(document))


def _encode(document: dict[str, object]) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
