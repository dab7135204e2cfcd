"""Publishing: whole or not at all, never over somebody else's."""

import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import OutputUnwritableError, ParityError
from finetune_trainer.exporting.destinations import check_destination
from finetune_trainer.exporting.digests import digest, list_files
from finetune_trainer.exporting.publishing import FolderDestination, workspace_uri, writing
from finetune_trainer.run import Run, Workspace
from tuned_runs import make_run

EXPORTS = [{"name": "adapter", "format": "peft"}]


def run_into(root: Path, destination: str | None = "pvc://out/bot", **settings: Any) -> Run:
    model = root / "model"
    model.mkdir(exist_ok=True)
    return make_run(root, model, exports=EXPORTS, destination=destination, **settings)


def own(destination: FolderDestination, uid: str = "uid-1") -> None:
    destination.folder.mkdir(parents=True, exist_ok=True)
    destination.report.write_text(json.dumps({"job": {"uid": uid}}))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def publish(destination: FolderDestination, text: str) -> None:
    with destination.staged("adapter") as folder:
        (folder / "weights").write_text(text)
        destination.publish(folder, "adapter")


def test_a_published_artefact_replaces_the_jobs_own_and_leaves_nothing_else(tmp_path: Path) -> None:
    destination = FolderDestination(run_into(tmp_path))
    publish(destination, "old")
    publish(destination, "new")
    assert names(destination.folder) == ["adapter"]
    assert (destination.folder / "adapter" / "weights").read_text() == "new"


def _fail_while_writing(destination: FolderDestination) -> None:
    with destination.staged("adapter") as folder:
        (folder / "weights").write_text("wrong")
        raise ParityError("not the same")


def test_an_artefact_that_fails_on_the_way_is_not_there(tmp_path: Path) -> None:
    destination = FolderDestination(run_into(tmp_path))
    with pytest.raises(ParityError):
        _fail_while_writing(destination)
    assert names(destination.folder) == []


def test_leftovers_of_a_killed_call_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    destination = FolderDestination(run_into(tmp_path))
    for name in (".partial-uid-1-adapter", ".partial-uid-1-adapter.old", ".partial-uid-2-adapter", "notes"):
        (destination.folder / name).mkdir(parents=True)
    destination.remove_leftovers()
    assert names(destination.folder) == [".partial-uid-2-adapter", "notes"]


@pytest.mark.parametrize("name", ["adapter", "README.md"])
def test_what_the_job_did_not_publish_is_never_overwritten(tmp_path: Path, name: str) -> None:
    run = run_into(tmp_path)
    (FolderDestination(run).folder / name).mkdir(parents=True)
    with pytest.raises(OutputUnwritableError, match=rf"output\.destination pvc://out/bot: .*/{name} exists"):
        check_destination(run)


def test_a_destination_of_another_job_is_refused_and_ones_own_is_not(tmp_path: Path) -> None:
    destination = FolderDestination(run_into(tmp_path))
    own(destination, "uid-2")
    with pytest.raises(OutputUnwritableError, match="belongs to another job; choose a folder of its own for bot"):
        destination.check(["adapter"])
    own(destination, "uid-1")
    (destination.folder / "adapter").mkdir()
    destination.check(["adapter"])


def test_other_files_in_the_destination_are_no_obstacle(tmp_path: Path) -> None:
    run = run_into(tmp_path)
    (FolderDestination(run).folder / "notes.txt").parent.mkdir(parents=True)
    (FolderDestination(run).folder / "notes.txt").touch()
    check_destination(run)


def test_without_destination_artefacts_lie_in_the_workspace_under_its_claims_name(tmp_path: Path) -> None:
    run = run_into(tmp_path, destination=None)
    assert FolderDestination(run).folder == run.workspace.artifacts
    assert workspace_uri(run) == "pvc://bot-workspace/artifacts"


def test_on_a_shared_claim_the_uri_contains_the_jobs_own_folder(tmp_path: Path) -> None:
    run = run_into(tmp_path, destination=None)
    spec = run.spec.model_copy(
        update={
            "output": run.spec.output.model_copy(
                update={"workspace": run.spec.output.workspace.model_copy(update={"claim_name": "team"})}
            )
        }
    )
    request = run.request.model_copy(update={"spec": spec})
    shared = Run(request, Workspace(tmp_path / "job-uid-1"), run.claim_path, run.progress)
    assert workspace_uri(shared) == "pvc://team/job-uid-1/artifacts"


def test_a_full_volume_names_the_field(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputUnwritableError, match=r"output\.workspace\.size: .* is full"),
        writing("output.workspace.size", tmp_path),
        Path("/dev/full").open("wb", buffering=0) as file,
    ):
        file.write(b"weights")


def test_a_full_volume_is_recognised_in_the_errors_of_libraries_too(tmp_path: Path) -> None:
    with pytest.raises(OutputUnwritableError, match="is full"), writing("output.destination", tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def test_a_path_that_cannot_be_made_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputUnwritableError, match=r"output\.destination: .* cannot be written"),
        writing("output.destination", tmp_path),
    ):
        (tmp_path / "file" / "folder").mkdir()


def test_causes_that_are_not_the_volumes_pass_unchanged(tmp_path: Path) -> None:
    for error in (ParityError("No space left on device"), OSError(errno.EIO, "I/O error"), ValueError("x")):
        with pytest.raises(type(error)) as caught, writing("output.destination", tmp_path):
            raise error
        assert caught.value is error


def test_the_digest_is_that_of_sha256sums_output(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b").write_text("B")
    (tmp_path / "sub" / "a").write_text("A")
    lines = f"{hashlib.sha256(b'B').hexdigest()}  b\n{hashlib.sha256(b'A').hexdigest()}  sub/a\n"
    files = list_files(tmp_path)
    assert [(f.name, f.size) for f in files] == [("b", 1), ("sub/a", 1)]
    assert digest(files) == digest(files[::-1]) == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
