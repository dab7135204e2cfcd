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
from finetune_trainer.models.folder_check import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, refuse_pickled
from finetune_trainer.models.published import publication, require_published
from finetune_trainer.models.safetensors_check import TensorHeader, check_safetensors
from finetune_trainer.object_store import bring_objects, is_object_uri
from finetune_trainer.paths import claim_root, claimed_path, is_inside, shortened
from finetune_trainer.run import Run

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
    folder = _found(run, source)
    require_published(run, uri, folder)
    _require_base(run, uri, base_digest)
    config = read_json(folder / ADAPTER_CONFIG, f"{uri}: {ADAPTER_CONFIG}")
    if not isinstance(config, dict):
        raise InvalidModelError(f"{uri}: {ADAPTER_CONFIG} is not an object")
    tensors = check_safetensors(folder / ADAPTER_WEIGHTS, f"{uri}: {ADAPTER_WEIGHTS}")
    _keep(folder, run.workspace.continued)
    return ContinuedAdapter(uri, digest(list_files(run.workspace.continued)), config, tensors)


def kept_adapter(run: Run) -> Path:
    """The folder that prepare left. Raises InvalidModelError when it is not as it was then."""
    folder = run.workspace.continued
    if digest(list_files(folder)) != run.plan.method.continued_digest:
        raise InvalidModelError(
            f"the workspace no longer has the adapter that the plan continues ({run.plan.method.continued_from}): "
            "somebody has changed its files; create the job again"
        )
    return folder


def _found(run: Run, source: AdapterSource) -> Path:
    """Folder with the files of the adapter."""
    uri = source.source
    if uri.startswith("hf://"):
        return _downloaded(run, source)
    if is_object_uri(uri):
        return bring_objects(uri, _downloads(run), lambda names: _chosen(run, names, uri))
    folder, root = claimed_path(run, uri), claim_root(run, uri)
    if not folder.is_dir():
        raise InvalidModelError(f"{uri} is a file; name the folder with {' and '.join(FILES)}")
    _require_adapter([file.name for file in folder.iterdir()], uri)
    for name in FILES:
        if not is_inside(folder / name, root):
            raise InvalidModelError(f"{uri}: {name} is a symbolic link that leaves its claim; copy the file")
    return folder


def _downloaded(run: Run, source: AdapterSource) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    uri, folder = source.source, _downloads(run)
    revision = pinned_revision(uri, "model", source.revision, run.workspace.root / "pins")
    with hub_errors(uri):
        _require_adapter(HfApi().list_repo_files(hub_name(uri), revision=revision), uri)
        snapshot_download(hub_name(uri), revision=revision, local_dir=folder, allow_patterns=[*FILES])
    return folder


def _downloads(run: Run) -> Path:
    return run.workspace.root / "continued-download"


def _chosen(run: Run, names: list[str], uri: str) -> Sequence[str]:
    _require_adapter(names, uri)
    return names if publication(run, uri) else FILES  # what was published is compared as a whole


def _require_adapter(names: Sequence[str], uri: str) -> None:
    """Tell apart an empty place, a whole model, and weights in a format that is not read, by the names of files."""
    if ADAPTER_CONFIG not in names:
        if CONFIG in names:
            raise InvalidModelError(f"{uri} is a whole model, not an adapter: name it in model.source")
        raise SourceNotFoundError(f"{uri} holds no adapter ({', '.join(FILES)}); it holds {shortened(names)}")
    if ADAPTER_WEIGHTS not in names:
        refuse_pickled(names, uri)
        raise SourceNotFoundError(f"{uri} has no {ADAPTER_WEIGHTS}; it holds {shortened(names)}")


def _require_base(run: Run, uri: str, base_digest: str) -> None:
    job = publication(run, uri)
    if job is not None and job.base_digest and job.base_digest != base_digest:
        raise InvalidModelError(
            f"job://{job.job} has trained its adapter on other files ({job.base_digest}) than those of model.source "
            f"({base_digest}): name the same model, or, where the weights are equal, the adapter's folder in place of "
            f"the job ({uri})"
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
