"""The API server's audit log as the history of a namespace: which objects were created and deleted, and how often."""

import json
import re
import threading
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from finetune_api.names import FIELD_MANAGER

Entry = dict[str, Any]
COUNTED = ("finetunejobs", "jobs", "persistentvolumeclaims", "networkpolicies")
_HASH = re.compile(r"-[0-9a-f]{6}$")


def plain(name: str) -> str:
    """A child's name without the hash of its job's uid, so that two runs can be compared."""
    return _HASH.sub("", name)


class AuditLog:
    """Reads the log of one API server as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._position = 0
        self._entries: dict[str, list[Entry]] = defaultdict(list)

    def of(self, namespace: str) -> list[Entry]:
        """Every answered request about objects of a namespace, oldest first."""
        with self._lock:
            self._read()
            return [*self._entries[namespace]]

    def creates(self, namespace: str) -> Counter[str]:
        """How often each object was created, by whomever."""
        return Counter(_object(e) for e in self.of(namespace) if e["verb"] == "create" and _counts(e))

    def deletes(self, namespace: str) -> Counter[str]:
        """How often the operator deleted each object; the garbage collector's deletions are Kubernetes' own."""
        entries = self._of_operator(namespace)
        return Counter(_object(e) for e in entries if e["verb"] == "delete" and _counts(e))

    def writes(self, namespace: str) -> Counter[str]:
        """Writes of the operator with success, by object."""
        entries = self._of_operator(namespace)
        return Counter(_object(e) for e in entries if e["verb"] in ("create", "update", "patch", "delete") and _well(e))

    def _of_operator(self, namespace: str) -> list[Entry]:
        account = f"system:serviceaccount:{namespace}:{FIELD_MANAGER}"
        return [e for e in self.of(namespace) if e["user"]["username"] == account]

    def _read(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                self._keep(json.loads(line))

    def _keep(self, entry: Entry) -> None:
        namespace = (entry.get("objectRef") or {}).get("namespace")
        if namespace and entry["verb"] not in ("watch", "list", "get"):
            self._entries[namespace].append(entry)


def _well(entry: Entry) -> bool:
    return bool((entry.get("responseStatus") or {}).get("code", 500) < 300)


def _counts(entry: Entry) -> bool:
    reference = entry["objectRef"]
    return _well(entry) and reference.get("resource") in COUNTED and "subresource" not in reference


def _object(entry: Entry) -> str:
    reference = entry["objectRef"]
    return f"{reference['resource']}/{plain(reference.get('name', ''))}"
