"""Models and data in a bucket, with the real client against a real S3 server on loopback."""

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.contract import StageResult
from finetune_trainer.errors import (
    InvalidDataError,
    InvalidModelError,
    InvalidSpecError,
    SourceNotFoundError,
    SourceUnavailableError,
    StageError,
)
from finetune_trainer.object_store import bring_objects
from finetune_trainer.run import Run
from finetune_trainer.stages import prepare
from s3_server import S3Server, s3_server
from tiny_models import build_tiny_model
from trainer_requests import make_run

pytestmark = pytest.mark.trainer
ROWS = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A bucket `models` with a tiny model and a bucket `data` with rows."""
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        shutil.copytree(build_tiny_model("llama"), running.folder / "models" / "team" / "tiny")
        running.put("models/team/tiny/notes/readme.txt", b"not of the model")
        running.put("models/team/tiny/training_args.bin", b"not of the model")
        running.put("models/pickled/config.json", b"{}")
        running.put("models/pickled/pytorch_model.bin", b"x")
        running.put("models/disguised/config.json", b"{}")
        running.put("models/disguised/tokenizer.json", b"{}")
        running.put("models/disguised/model.safetensors", pickle.dumps({"weight": [0.5] * 9}))
        running.put("data/set/train-0.jsonl", LINES)
        running.put("data/set/train-1.jsonl.gz", gzip.compress(LINES.replace(b': "p', b': "q')))
        running.put("data/set/test.jsonl", LINES.replace(b': "p', b': "t'))
        running.put("data/set/README.md", b"x")
        running.put("data/notes/README.md", b"x")
        running.put("data/bad.jsonl", LINES + b'{"prompt": "p", "completion": ""}\n')
        yield running


@pytest.fixture(autouse=True)
def credentials(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


def spec(train: str = "s3://data/set", **parts: Any) -> dict[str, Any]:
    return {"model": {"source": "s3://models/team/tiny"}, "dataset": {"train": {"source": train}}, **parts}


def executed(root: Path, **parts: Any) -> tuple[Run, StageResult]:
    run = make_run(root, **spec(**parts))
    return run, prepare.execute(run)


def test_a_job_takes_model_and_rows_from_buckets(tmp_path: Path) -> None:
    run, result = executed(tmp_path)
    assert result.dataset is not None
    assert (result.dataset.train_rows, result.dataset.eval_rows) == (36, 4)
    assert result.dataset.file_format == "JSON Lines and JSON Lines, gzip"
    names = {file.name for file in run.workspace.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"notes", "training_args.bin"} & names
    assert not (run.workspace.root / "objects").exists()


def test_the_result_is_that_of_the_same_files_in_a_claim(tmp_path: Path, server: S3Server) -> None:
    _, result = executed(tmp_path)
    (tmp_path / "claims").symlink_to(server.folder, target_is_directory=True)
    run = make_run(
        tmp_path / "again", model={"source": "pvc://models/tiny"}, dataset={"train": {"source": "pvc://data/set"}}
    )
    claims = tmp_path / "again" / "claims"
    shutil.copytree(server.folder / "data", claims / "data")
    shutil.copytree(build_tiny_model("llama"), claims / "models" / "tiny")
    want = prepare.execute(run)
    assert result.dataset == want.dataset
    assert result.plan is not None
    assert want.plan is not None
    assert result.plan.model.digest == want.plan.model.digest


def test_splits_and_slices_choose_objects_by_name(tmp_path: Path) -> None:
    both = {
        "train": {"source": "s3://data/set", "split": "train[:10]"},
        "eval": {"source": "s3://data/set", "split": "test"},
    }
    run = make_run(tmp_path, **{**spec(), "dataset": both})
    result = prepare.execute(run)
    assert result.dataset is not None
    assert (result.dataset.train_rows, result.dataset.eval_rows) == (10, 20)


def refused(root: Path, error: type[StageError], **parts: Any) -> str:
    with pytest.raises(error) as caught:
        executed(root, **parts)
    return str(caught.value)


def test_one_object_is_one_file_and_its_bad_rows_are_named(tmp_path: Path) -> None:
    message = refused(tmp_path, InvalidDataError, train="s3://data/bad.jsonl")
    assert message.startswith("bad.jsonl: 1 of 21 rows cannot be used: line 21: completion is empty")


@pytest.mark.parametrize(
    ("train", "want"),
    [
        ("s3://data/sett", "s3://data/sett does not exist; s3://data holds bad.jsonl, notes/, set/"),
        ("s3://nobucket/set", "s3://nobucket/set does not exist"),
        ("s3://data/notes", "s3://data/notes holds no data file"),
    ],
)
def test_data_that_is_not_there_is_told_from_a_store_that_is_down(tmp_path: Path, train: str, want: str) -> None:
    assert refused(tmp_path, SourceNotFoundError, train=train).startswith(want)


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("s3://models/pickled", "pytorch_model.bin is refused: such files can run code when read"),
        ("s3://models/disguised", "model.safetensors is a pickle under the name of safetensors and is refused"),
        ("s3://data/bad.jsonl", "s3://data/bad.jsonl is a single file; name the folder"),
    ],
)
def test_a_model_that_cannot_be_used_says_why(tmp_path: Path, source: str, want: str) -> None:
    assert want in refused(tmp_path, InvalidModelError, model={"source": source})


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_name_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "wrong")
    message = refused(tmp_path, SourceNotFoundError)
    assert message.startswith(
        "s3://models/team/tiny may not be read with these keys: name a Secret with AWS_ACCESS_KEY"
    )


def test_without_keys_only_public_objects_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "the Secret in credentials has no AWS_SECRET_ACCESS_KEY" in refused(tmp_path, InvalidSpecError)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "may not be read with these keys" in refused(tmp_path, SourceNotFoundError)


def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert refused(tmp_path, SourceUnavailableError).startswith("s3://models/team/tiny: the store did not answer: ")


def test_an_address_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    assert "AWS_ENDPOINT_URL is not an address" in refused(tmp_path, InvalidSpecError)


def test_only_what_has_changed_is_copied_again_and_what_is_gone_goes(tmp_path: Path, server: S3Server) -> None:
    server.put("data/moving/a.jsonl", b"one")
    server.put("data/moving/b.jsonl", b"two")
    folder = tmp_path / "copy"
    bring_objects("s3://data/moving", folder, lambda names: names)
    kept = (folder / "a.jsonl").stat().st_ino
    server.put("data/moving/b.jsonl", b"TWO")
    os.utime(server.folder / "data/moving/b.jsonl", (2e9, 2e9))
    (folder / "left.jsonl").write_bytes(b"half")
    bring_objects("s3://data/moving", folder, lambda names: names)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a.jsonl": b"one", "b.jsonl": b"TWO"}
    assert (folder / "a.jsonl").stat().st_ino == kept
