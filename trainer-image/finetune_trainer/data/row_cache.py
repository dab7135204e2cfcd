"""Tokenised rows on a claim that several jobs share: the second job with the same model and data takes them over.

A job without output.workspace.claimName has a claim of its own, nobody to share with, and keeps none. An entry is whole
or absent: it is written aside and renamed. Its files are compared with their checksums before they are used; one that
does not match is no entry.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog

from finetune_trainer.ownership import own_folder
from finetune_trainer.result import write_atomically
from finetune_trainer.run import Run

_log = structlog.get_logger(__name__)
FOLDER = "tokenised-rows"
ENTRIES = 8
"""Entries kept; beyond, the one that was used longest ago goes."""
_FACTS = "facts.json"
_LIBRARIES = ("transformers", "tokenizers", "trl", "jinja2", "pyarrow", "jsonschema", "regex")


@dataclass(frozen=True)
class RowCache:
    """The entry for one key on the job's shared claim; without such a claim it is always empty."""

    entry: Path | None
    train_rows: Path
    eval_rows: Path

    def restore(self) -> dict[str, Any] | None:
        """Put the kept rows into the workspace and return the facts that were kept with them; None without an entry."""
        if self.entry is None or not (self.entry / _FACTS).is_file():
            return None
        try:
            kept = json.loads((self.entry / _FACTS).read_bytes())
            if _checksums(self.entry) != kept["files"]:
                _log.warning("kept rows do not match their checksums and are not used", entry=self.entry.name)
                return None
            for source, target in self._places(self.entry):
                if source.is_dir():
                    shutil.copytree(source, target)
            os.utime(self.entry)
        except (OSError, ValueError, KeyError, TypeError) as error:
            # Another job may take an old entry away at any moment.
            _log.warning("kept rows cannot be used", entry=self.entry.name, error=str(error))
            self._clear()
            return None
        facts: dict[str, Any] = kept["facts"]
        return facts

    def keep(self, facts: dict[str, Any], owner: str) -> None:
        """Keep the rows of the workspace with `facts`, JSON values. What cannot be kept is not an error."""
        if self.entry is None or self.entry.exists():
            return
        aside = self.entry.with_name(f".{self.entry.name}-{owner}")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for copy, source in self._places(aside):
                if source.is_dir():
                    shutil.copytree(source, copy)
            write_atomically(aside / _FACTS, json.dumps({"files": _checksums(aside), "facts": facts}).encode())
            aside.rename(self.entry)
            self._prune()
        except OSError as error:
            _log.warning("the rows are not kept for other jobs", error=str(error))
            shutil.rmtree(aside, ignore_errors=True)

    def _places(self, entry: Path) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
        return (entry / "train", self.train_rows), (entry / "eval", self.eval_rows)

    def _clear(self) -> None:
        for path in (self.train_rows, self.eval_rows):
            shutil.rmtree(path, ignore_errors=True)

    def _prune(self) -> None:
        if self.entry is None:
            return
        entries = [path for path in self.entry.parent.iterdir() if not path.name.startswith(".")]
        for old in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[ENTRIES:]:
            shutil.rmtree(old, ignore_errors=True)


def row_cache(run: Run, model_digest: str, limit: int, fingerprints: dict[str, str]) -> RowCache:
    """The cache of this job. Its key covers all that rows depend on: model, data, spec, this code and its libraries.

    `limit` is the longest row in tokens; `fingerprints` names the content of each source.
    """
    document = {
        "spec": _spec_of_rows(run),
        "model": model_digest,
        "limit": limit,
        "sources": fingerprints,
        "code": _code_digest(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }
    key = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:32]
    entry = _volume(run) / FOLDER / key if is_shared(run) else None
    return RowCache(entry, run.workspace.train_rows, run.workspace.eval_rows)


def is_shared(run: Run) -> bool:
    """Whether the workspace lies on a claim that other jobs may use too."""
    return bool(run.spec.output.workspace.claim_name)


def _volume(run: Run) -> Path:
    """Root of the workspace's claim: the first job on it works there, every other one in a folder of its own."""
    root = run.workspace.root
    return root.parent if root.name == own_folder(run.request.job.uid) else root


def _spec_of_rows(run: Run) -> dict[str, Any]:
    """What of the spec decides about rows; credentials do not."""
    spec = run.spec
    dataset = spec.dataset.model_dump(mode="json", exclude={"train": {"credentials"}, "eval": {"credentials"}})
    return {
        "task": spec.task,
        "objective": spec.training.objective,
        "template": spec.model.chat_template,
        "dataset": dataset,
    }


def _code_digest() -> str:
    total = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        total.update(file.read_bytes())
    return total.hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    """sha256 of each file in `folder` but the facts."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != _FACTS)
    return {str(file.relative_to(folder)): _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
