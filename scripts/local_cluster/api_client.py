"""The few calls this tool itself makes to an API server, with a client certificate and the standard library only."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from local_cluster.errors import LocalClusterError
from local_cluster.pki import Pki

FIELD_MANAGER = "local-cluster"
_PLURALS = {"StorageClass": "storageclasses"}


class ApiClient:
    """Reads, and applies manifests on the server's side; every call is a connection of its own."""

    def __init__(self, server: str, authority: Path, certificate: Path, key: Path) -> None:
        location = urlsplit(server)
        self._host, self._port = location.hostname or "", location.port or 443
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(certificate, key)

    @classmethod
    def of_admin(cls, server: str, pki: Pki) -> ApiClient:
        """The client that may do everything."""
        return cls(server, pki.certificate("ca"), pki.certificate("admin"), pki.key("admin"))

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        timeout: float = 15,
    ) -> tuple[int, str]:
        """Status and text of one answer; OSError where there is none."""
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": content_type})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        """Whether a GET ends well, and soon."""
        try:
            status, _ = self.request("GET", path, timeout=3)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def get(self, path: str) -> dict[str, Any]:
        """The object at a path."""
        return self._checked("GET", path)

    def apply(self, manifest: dict[str, Any]) -> None:
        """Creates the object, or brings it to what the manifest says."""
        path = f"{object_path(manifest)}?fieldManager={FIELD_MANAGER}&force=true"
        self._checked("PATCH", path, manifest, "application/apply-patch+yaml")

    def _checked(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        status, text = self.request(method, path, body, content_type)
        if status >= 300:
            raise LocalClusterError(f"the API server answered {status} to {method} {path}: {text.strip()}")
        answer: dict[str, Any] = json.loads(text)
        return answer


def object_path(manifest: dict[str, Any]) -> str:
    """The path of the object that a manifest describes."""
    version, kind, metadata = manifest["apiVersion"], manifest["kind"], manifest["metadata"]
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    return f"{prefix}{namespace}/{plural}/{metadata['name']}"
