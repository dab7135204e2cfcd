"""Talking to a Hugging Face hub (HF_ENDPOINT, HF_TOKEN): which commit a name means, what an error there means."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from finetune_trainer.errors import InvalidSpecError, SourceNotFoundError, SourceUnavailableError
from finetune_trainer.result import write_atomically

RepoType = Literal["model", "dataset"]


def hub_name(uri: str) -> str:
    """`org/name` of hf://org/name. Raises InvalidSpecError when there are more parts, or fewer."""
    name = uri.removeprefix("hf://").strip("/")
    if name.count("/") != 1:
        raise InvalidSpecError(f"{uri} must look like hf://org/name; a commit, tag or branch goes into revision")
    return name


def pinned_revision(uri: str, repo_type: RepoType, revision: str | None, pins: Path) -> str:
    """The commit that `revision` (the default branch when None) of `uri` means; asked once and kept in folder `pins`.

    A repeated call returns the kept commit, so that a stage that starts again works on the same files.
    """
    key = hashlib.sha256(f"{repo_type} {uri} {revision}".encode()).hexdigest()[:16]
    pin = pins / f"{key}.json"
    if pin.exists():
        return str(json.loads(pin.read_text())["commit"])
    commit = _resolve(uri, repo_type, revision)
    write_atomically(pin, json.dumps({"source": uri, "revision": revision, "commit": commit}).encode())
    return commit


def _resolve(uri: str, repo_type: RepoType, revision: str | None) -> str:
    from huggingface_hub import HfApi

    with hub_errors(uri):
        commit = HfApi().repo_info(hub_name(uri), repo_type=repo_type, revision=revision).sha
    if not commit:
        raise SourceUnavailableError(f"{uri}: the hub named no commit for revision {revision or 'main'}")
    return str(commit)


@contextmanager
def hub_errors(uri: str) -> Iterator[None]:
    """Turn what the hub's client raises into SourceNotFoundError or SourceUnavailableError."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceNotFoundError(
            f"{uri} is gated: accept its terms on the hub and name a Secret with HF_TOKEN in credentials"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceNotFoundError(f"{uri} has no such revision; name a commit, tag or branch that exists") from error
    except errors.LocalEntryNotFoundError as error:
        raise SourceUnavailableError(f"{uri}: the hub did not answer: {_first_line(error)}") from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError) as error:
        raise SourceNotFoundError(
            f"{uri} does not exist on the hub, or is private: check the name, or give a Secret with HF_TOKEN"
        ) from error
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError) as error:
        raise SourceUnavailableError(f"{uri}: the hub did not answer: {_first_line(error)}") from error
    except Exception as error:
        if _is_transport(error):
            raise SourceUnavailableError(f"{uri}: the hub cannot be reached: {_first_line(error)}") from error
        raise


def _is_transport(error: BaseException) -> bool:
    """Whether an HTTP library, whichever is installed, failed to reach the hub."""
    return type(error).__module__.partition(".")[0] in (
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "requests",
        "aiohttp",
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
