"""Brings the model that the spec names into the workspace: a link into a claim, a download from a hub or a bucket, or a
converted GGUF file.

Decides where the model comes from and pins it. Everything is checked before a library loads it (folder_check.py).
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from finetune_trainer.errors import InvalidModelError, SourceNotFoundError
from finetune_trainer.hub_access import hub_errors, hub_name, pinned_revision
from finetune_trainer.models.digest import model_digest
from finetune_trainer.models.folder_check import PICKLED, check_model_folder
from finetune_trainer.models.gguf_conversion import convert_gguf
from finetune_trainer.models.published import publication, require_published
from finetune_trainer.models.safetensors_check import TensorHeader
from finetune_trainer.object_store import bring_objects, is_object_uri
from finetune_trainer.paths import claim_root, claimed_path, is_inside
from finetune_trainer.result import write_atomically
from finetune_trainer.run import Run

HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "spiece.model", "vocab.txt", "merges.txt"]
"""Files that are taken from a hub or a bucket: weights as safetensors, configuration, tokenizer, templates."""


@dataclass(frozen=True)
class SourcedModel:
    """The model as it lies in the workspace."""

    tensors: list[TensorHeader]
    revision: str
    """Commit, for a source that has commits."""
    digest: str


def bring_model(run: Run) -> SourcedModel:
    """Put the spec's model at run.workspace.model and return what it is. Repeating it gives the same model.

    Raises SourceNotFoundError, SourceUnavailableError or InvalidModelError.
    """
    uri = run.spec.model.source
    if uri.startswith("hf://"):
        return _from_hub(run, uri)
    if is_object_uri(uri):
        return _from_bucket(run, uri)
    path = claimed_path(run, uri)
    weights = _gguf_file(path, claim_root(run, uri), uri)
    if weights is not None:
        return _converted(run, weights, uri)
    if path.is_file():
        raise InvalidModelError(f"{uri} is a single file; name the folder with config.json and safetensors, or a .gguf")
    tensors = check_model_folder(path, claim_root(run, uri), uri)
    require_published(run, uri, path)
    _link(run.workspace.model, path)
    return SourcedModel(tensors, "", model_digest(path))


def _link(link: Path, target: Path) -> None:
    _remove(link)
    link.symlink_to(target.absolute(), target_is_directory=True)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _gguf_file(path: Path, root: Path, uri: str) -> Path | None:
    """The one GGUF file that `path` is or holds; None when it is a Hugging Face folder."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    found = sorted(path.glob("*.gguf"))
    if not found or any(path.glob("*.safetensors")):
        return None
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InvalidModelError(f"{uri} holds several GGUF files ({names}); name one of them in model.source")
    if not is_inside(found[0], root):
        raise InvalidModelError(f"{uri}: {found[0].name} is a symbolic link that leaves its claim; copy the file")
    return found[0]


def _converted(run: Run, weights: Path, uri: str) -> SourcedModel:
    """The converted model; an earlier conversion of the same file is used again."""
    done = run.workspace.root / "pins" / "gguf.json"
    origin = {"source": uri, "size": weights.stat().st_size, "modified": weights.stat().st_mtime_ns}
    if not (run.workspace.model.is_dir() and done.exists() and json.loads(done.read_text()) == origin):
        scratch = run.workspace.root / ".model"
        _remove(scratch)
        convert_gguf(weights, scratch, uri)
        _remove(run.workspace.model)
        scratch.rename(run.workspace.model)
        write_atomically(done, json.dumps(origin).encode())
    tensors = check_model_folder(run.workspace.model, run.workspace.model, uri)
    return SourcedModel(tensors, "", model_digest(run.workspace.model))


def _from_hub(run: Run, uri: str) -> SourcedModel:
    from huggingface_hub import HfApi, snapshot_download

    revision = pinned_revision(uri, "model", run.spec.model.revision, run.workspace.root / "pins")
    folder = run.workspace.root / "download"
    with hub_errors(uri):
        _check_names(HfApi().list_repo_files(hub_name(uri), revision=revision), uri)
        snapshot_download(
            hub_name(uri),
            revision=revision,
            local_dir=folder,
            allow_patterns=HUB_PATTERNS,
            ignore_patterns=["*/*"],
        )
    tensors = check_model_folder(folder, folder, uri)
    _link(run.workspace.model, folder)
    return SourcedModel(tensors, revision, model_digest(folder))


def _from_bucket(run: Run, uri: str) -> SourcedModel:
    folder = run.workspace.root / "download"

    def chosen(names: list[str]) -> Sequence[str]:
        _check_names(names, uri)
        if publication(run, uri):
            return names  # what was published is compared as a whole
        return [name for name in names if any(fnmatch(name, pattern) for pattern in HUB_PATTERNS) and "/" not in name]

    path = bring_objects(uri, folder, chosen)
    if path.is_file():
        if path.suffix == ".gguf":
            return _converted(run, path, uri)
        raise InvalidModelError(f"{uri} is a single file; name the folder with config.json and safetensors, or a .gguf")
    tensors = check_model_folder(folder, folder, uri)
    require_published(run, uri, folder)
    _link(run.workspace.model, folder)
    return SourcedModel(tensors, "", model_digest(folder))


def _check_names(names: list[str], uri: str) -> None:
    """Refuse a repository or a bucket's folder by its file names, before anything large is downloaded."""
    top = [name for name in names if "/" not in name]
    if any(name.endswith(".safetensors") for name in top):
        return
    pickled = [name for name in top if Path(name).suffix in PICKLED]
    if pickled:
        raise InvalidModelError(
            f"{uri}: {pickled[0]} is refused: such files can run code when read. Choose a repository or revision with "
            "safetensors"
        )
    if any(name.endswith(".gguf") for name in top):
        raise InvalidModelError(f"{uri} holds GGUF files only; {_gguf_way_out(uri)}")
    raise SourceNotFoundError(f"{uri} holds no model (*.safetensors); it holds {', '.join(top[:8]) or 'folders only'}")


def _gguf_way_out(uri: str) -> str:
    if is_object_uri(uri):
        return "name one of them in model.source"
    return "copy one into a claim and name it as pvc://claim/file.gguf"
