"""Publishes artefacts under a prefix of a bucket (s3://, gs://, az://).

A bucket renames nothing, so an artefact is written and proven in the workspace, copied object by object, read back and
compared. What is there is what report.json says: it is written again without an artefact before that is replaced, and
with it when all of it has arrived.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune_trainer.errors import OutputUnwritableError, SourceUnavailableError
from finetune_trainer.exporting.digests import FileRecord
from finetune_trainer.exporting.publishing import Destination, emptied, writing
from finetune_trainer.object_clients import DamagedObjectError, open_store, output_environment
from finetune_trainer.object_store import CHUNK, bucket_is_missing, received, stored_objects
from finetune_trainer.ownership import confirm_attempt
from finetune_trainer.run import Run

FIELD = "output.destination"
SECRET_FIELD = "output.credentials"  # noqa: S105 - the name of a field
DAMAGED = "damaged"
"""In place of the sha256 of an object that the store cannot give back as it got it."""
READ_AT_ONCE = 64 << 20
"""Bytes that a report may have."""


class BucketDestination(Destination):
    """The prefix of a bucket that output.destination names. Raises InvalidSpecError for keys that cannot be right."""

    def __init__(self, run: Run) -> None:
        uri = (run.spec.output.destination or "").rstrip("/")
        super().__init__(run, uri)
        self._run = run
        self._store = open_store(uri, output_environment(os.environ), SECRET_FIELD, OutputUnwritableError)

    def check(self, names: list[str]) -> None:
        """As of every destination; a bucket that is not there, or where these keys may not write, is refused too."""
        super().check(names)
        # Only now: a store may answer "no such bucket" to keys that it does not know, and the listing tells them apart.
        if bucket_is_missing(self._store):
            raise OutputUnwritableError(
                f"{FIELD} {self.uri}: there is no bucket {self._store.bucket}; create it, or choose another one"
            )
        self._try_to_write()

    def read(self, name: str) -> bytes | None:
        """Content of the object `name` right under the prefix; None when there is none."""
        found = [stored for stored in stored_objects(self._store, self._key(name)) if stored.key == self._key(name)]
        if not found:
            return None
        if found[0].size > READ_AT_ONCE:
            self._refuse(f"{self._place(name)} has {found[0].size} bytes and is not this job's")
        return b"".join(received(self._store, self._key(name)))

    def write(self, name: str, content: bytes) -> None:
        """Put an object right under the prefix."""
        if self._store.kind.replaces_whole:
            self._send(self._key(name), iter([content]))
            return
        arriving = self._key(f"{self._prefix}{name}")
        self._send(arriving, iter([content]))
        with self._store.errors():
            self._store.files.copy_file(arriving, self._key(name))
        self._delete(arriving)

    def holds(self, name: str) -> bool:
        """Whether there is an object `name`, or any below it."""
        return bool(stored_objects(self._store, self._key(name)))

    def files(self, name: str) -> list[FileRecord]:
        """The objects below `name`, each read as a whole; DAMAGED in place of a sha256 that cannot be had."""
        return [self._record(stored.key, self._key(name)) for stored in stored_objects(self._store, self._key(name))]

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Nothing of an earlier call is left in the workspace; a full workspace is named."""
        root = self._run.workspace.root
        with writing("output.workspace.size", root), emptied(self._staging):
            yield

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """An empty folder of the workspace."""
        with emptied(self._staging / name) as folder:
            yield folder

    def publish(self, staged: Path, name: str) -> None:
        """Copy `staged` to `name`, delete what else lay there, and read everything back.

        Raises SourceUnavailableError when what arrived is not what was sent, PreemptedError when a later attempt works.
        """
        files = {self._key(f"{name}/{path.relative_to(staged).as_posix()}"): path for path in _files(staged)}
        digests = {}
        for key, path in files.items():
            confirm_attempt(self._run.workspace.root, self._run.request)
            total = hashlib.sha256()
            self._send(key, _pieces(path, total))
            digests[key] = total.hexdigest()
        for stored in stored_objects(self._store, self._key(name)):
            if stored.key not in files:
                self._delete(stored.key)
        arrived = {record.name: record.sha256 for record in self.files(name)}
        if arrived != {key.removeprefix(f"{self._key(name)}/"): sha256 for key, sha256 in digests.items()}:
            raise SourceUnavailableError(f"{FIELD} {self.uri}: {name} did not arrive as it was sent; it is sent again")

    @property
    def _staging(self) -> Path:
        return self._run.workspace.root / "export-staging"

    @property
    def _prefix(self) -> str:
        return f".partial-{self._job.uid}-"

    def _key(self, name: str) -> str:
        return f"{self._store.path}/{name}"

    def _try_to_write(self) -> None:
        request = self._run.request
        key = self._key(f"{self._prefix}{request.stage}-{request.attempt}-may-write")
        self._send(key, iter([b"written to find out whether these keys may write\n"]))
        self._delete(key)

    def _send(self, key: str, content: Iterator[bytes]) -> None:
        with self._store.errors():
            target = self._store.files.open_output_stream(key, compression=None)
        for number, piece in enumerate(content, 1):
            with self._store.errors():
                target.write(piece)
                if self._store.kind.flush_every and number % self._store.kind.flush_every == 0:
                    target.flush()
        with self._store.errors():
            target.close()

    def _delete(self, key: str) -> None:
        """Delete an object; a leftover attempt may have been first."""
        with self._store.errors(), suppress(FileNotFoundError):
            self._store.files.delete_file(key)

    def _record(self, key: str, folder: str) -> FileRecord:
        total, size = hashlib.sha256(), 0
        try:
            for piece in received(self._store, key):
                total.update(piece)
                size += len(piece)
        except DamagedObjectError:
            return FileRecord(key.removeprefix(f"{folder}/"), size, DAMAGED)
        return FileRecord(key.removeprefix(f"{folder}/"), size, total.hexdigest())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _pieces(path: Path, total: "hashlib._Hash") -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            total.update(piece)
            yield piece
