"""Brings the adapter that a job continues (method.continueFrom) into the workspace: out of a claim, a hub or a bucket.

Everything is checked by names, headers and JSON before a library opens it. Must not judge whether it goes with the job
(continued_check.py).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.spec import AdapterSource
from finetune_trainer.errors import InvalidModelError, SourceNotFoundError
from finetune_trainer.exporting.digests import digest, list_files
from finetune_trainer.hub_access import hub_errors, hub_name, pinned_revision
from finetune_trainer.models.config_filter import read_json
from finetune_trainer.models.folder_check import ADAPTER_CONFIG, CONFIG, refuse_pickled
from finetune_trainer.models.published import publication, require_published
from finetune_trainer.models.safetensors_check import TensorHeader, check_safetensors
from finetune_trainer.object_store import bring_objects, is_object_uri
from finetune_trainer.paths import claim_root, claimed_path, is_inside, listing
from finetune_trainer.run import Run

ADAPTER_WEIGHTS = "adapter_model.safetensors"
FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)


@dataclass(frozen=True)
class ContinuedAdapter:
    """The adapter as it lies in the workspace."""

    uri: str
    digest: str
    config: Mapping[str, Any]
    tensors: Sequence[TensorHeader]


def bring_adapter(run: Run, base_digest: str) -> ContinuedAdapter | None:
    """Put the adapter of method.continueFrom at run.workspace.continued; None when the job starts a new one.

    Repeating it gives the same adapter. `base_digest` is that of the job's model.
    Raises SourceNotFoundError, SourceUnavailableError or InvalidModelError.
    """
    source = run.spec.method.continue_from
    if source is None:
        return None
    uri = source.source
    folder, root = _found(run, source)
    _require_adapter(folder, root, uri)
    require_published(run, uri, folder)
    _require_base(run, uri, base_digest)
    config = read_json(folder / ADAPTER_CONFIG, f"{uri}: {ADAPTER_CONFIG}")
    if not isinstance(config, dict):
        raise InvalidModelError(f"{uri}: {ADAPTER_CONFIG} is not an object")
    tensors = check_safetensors(folder / ADAPTER_WEIGHTS, f"{uri}: {ADAPTER_WEIGHTS}")
    _keep(folder, run.workspace.continued)
    return ContinuedAdapter(uri, digest(list_files(run.workspace.continued)), config, tensors)


def _found(run: Run, source: AdapterSource) -> tuple[Path, Path]:
    """Folder of the adapter, and the one that its files must not leave."""
    uri = source.source
    if not uri.startswith("hf://") and not is_object_uri(uri):
        return claimed_path(run, uri), claim_root(run, uri)
    folder = run.workspace.root / "continued-download"
    if is_object_uri(uri):
        whole = publication(run, uri) is not None  # what was published is compared as a whole
        bring_objects(uri, folder, lambda names: [name for name in names if whole or name in FILES])
    else:
        _download(run, source, folder)
    return folder, folder


def _download(run: Run, source: AdapterSource, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    uri = source.source
    revision = pinned_revision(uri, "model", source.revision, run.workspace.root / "pins")
    with hub_errors(uri):
        snapshot_download(hub_name(uri), revision=revision, local_dir=folder, allow_patterns=[*FILES])


def _require_adapter(folder: Path, root: Path, uri: str) -> None:
    """Tell apart an empty place, a whole model, and weights in a format that is not read."""
    if not folder.is_dir():
        raise InvalidModelError(f"{uri} is a file; name the folder with {' and '.join(FILES)}")
    if not (folder / ADAPTER_CONFIG).is_file():
        if (folder / CONFIG).is_file():
            raise InvalidModelError(f"{uri} is a whole model, not an adapter: name it in model.source")
        raise SourceNotFoundError(f"{uri} holds no adapter ({', '.join(FILES)}); it holds {listing(folder)}")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        refuse_pickled(folder, uri)
        raise SourceNotFoundError(f"{uri} has no {ADAPTER_WEIGHTS}; it holds {listing(folder)}")
    for name in FILES:
        if not is_inside(folder / name, root):
            raise InvalidModelError(f"{uri}: {name} is a symbolic link that leaves its claim; copy the file")


def _require_base(run: Run, uri: str, base_digest: str) -> None:
    job = publication(run, uri)
    if job is not None and job.base_digest and job.base_digest != base_digest:
        raise InvalidModelError(
            f"job://{job.job} has trained its adapter on another model ({job.base_digest}) than model.source names "
            f"({base_digest}): name that one"
        )


def _keep(folder: Path, target: Path) -> None:
    """Copy the files, whole or not at all: later stages do not need the source."""
    scratch = target.with_name(f".{target.name}")
    for path in (scratch, target):
        shutil.rmtree(path, ignore_errors=True)
    scratch.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(folder / name, scratch / name)
    scratch.rename(target)
