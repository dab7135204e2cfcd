"""Models and data in a bucket, with the real client of each store against a real server on loopback."""

import gzip
import json
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from azurite_server import ACCOUNT, KEY, sas_token
from finetune_api.contract import StageResult
from finetune_api.status import Ancestor
from finetune_trainer import object_clients
from finetune_trainer.errors import (
    InvalidDataError,
    InvalidModelError,
    InvalidSpecError,
    SourceNotFoundError,
    SourceUnavailableError,
    StageError,
)
from finetune_trainer.exporting.digests import digest, list_files
from finetune_trainer.object_store import bring_objects
from finetune_trainer.run import Run
from finetune_trainer.stages import prepare
from gcs_server import service_account_key
from object_servers import SCHEMES, Scheme, Server, forget_keys, object_server
from tiny_models import build_tiny_model
from tls_tunnel import tls_tunnel
from trainer_requests import make_run

pytestmark = pytest.mark.trainer
ROWS = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
OBJECTS = {
    "models/team/tiny/notes/readme.txt": b"not of the model",
    "models/team/tiny/training_args.bin": b"not of the model",
    "models/pickled/config.json": b"{}",
    "models/pickled/pytorch_model.bin": b"x",
    "models/disguised/config.json": b"{}",
    "models/disguised/tokenizer.json": b"{}",
    "models/disguised/model.safetensors": pickle.dumps({"weight": [0.5] * 9}),
    "data/set/train-0.jsonl": LINES,
    "data/set/train-1.jsonl.gz": gzip.compress(LINES.replace(b': "p', b': "q')),
    "data/set/test.jsonl": LINES.replace(b': "p', b': "t'),
    "data/set/README.md": b"x",
    "data/notes/README.md": b"x",
    "data/bad.jsonl": LINES + b'{"prompt": "p", "completion": ""}\n',
}
PUBLISHED = "models/first/merged"


@pytest.fixture(scope="module", params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return SCHEMES[request.param]


@pytest.fixture(scope="module")
def server(scheme: Scheme, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A bucket `models` with tiny models, a bucket `data` with rows and an empty one."""
    with object_server(scheme.name, tmp_path_factory.mktemp(scheme.name), "models", "data", "moving") as running:
        for file in build_tiny_model("llama").iterdir():
            running.put(f"models/team/tiny/{file.name}", file.read_bytes())
            running.put(f"{PUBLISHED}/{file.name}", file.read_bytes())
        for key, content in OBJECTS.items():
            running.put(key, content)
        yield running


@pytest.fixture(autouse=True)
def credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_keys(monkeypatch, dict(os.environ))
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_clients, "RETRY_SECONDS", 3.0)


@pytest.fixture
def uri(scheme: Scheme) -> Any:
    return lambda path: f"{scheme.name}://{path}"


def spec(of: Any, train: str = "data/set", **parts: Any) -> dict[str, Any]:
    return {"model": {"source": of("models/team/tiny")}, "dataset": {"train": {"source": of(train)}}, **parts}


def executed(root: Path, of: Any, **parts: Any) -> tuple[Run, StageResult]:
    run = make_run(root, **spec(of, **parts))
    return run, prepare.execute(run)


def test_a_job_takes_model_and_rows_from_buckets(tmp_path: Path, uri: Any) -> None:
    run, result = executed(tmp_path, uri)
    assert result.dataset is not None
    assert (result.dataset.train_rows, result.dataset.eval_rows) == (36, 4)
    assert result.dataset.file_format == "JSON Lines and JSON Lines, gzip"
    names = {file.name for file in run.workspace.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"notes", "training_args.bin"} & names
    assert not (run.workspace.root / "objects").exists()


def test_the_result_is_that_of_the_same_files_in_a_claim(tmp_path: Path, uri: Any) -> None:
    _, result = executed(tmp_path, uri)
    claims = tmp_path / "again" / "claims"
    for key, content in OBJECTS.items():
        (claims / key).parent.mkdir(parents=True, exist_ok=True)
        (claims / key).write_bytes(content)
    shutil.copytree(build_tiny_model("llama"), claims / "models" / "tiny")
    run = make_run(
        tmp_path / "again", model={"source": "pvc://models/tiny"}, dataset={"train": {"source": "pvc://data/set"}}
    )
    want = prepare.execute(run)
    assert result.dataset == want.dataset
    assert result.plan is not None
    assert want.plan is not None
    assert result.plan.model.digest == want.plan.model.digest


def test_splits_and_slices_choose_objects_by_name(tmp_path: Path, uri: Any) -> None:
    both = {
        "train": {"source": uri("data/set"), "split": "train[:10]"},
        "eval": {"source": uri("data/set"), "split": "test"},
    }
    run = make_run(tmp_path, **{**spec(uri), "dataset": both})
    result = prepare.execute(run)
    assert result.dataset is not None
    assert (result.dataset.train_rows, result.dataset.eval_rows) == (10, 20)


def refused(root: Path, of: Any, error: type[StageError], **parts: Any) -> str:
    with pytest.raises(error) as caught:
        executed(root, of, **parts)
    return str(caught.value)


def test_one_object_is_one_file_and_its_bad_rows_are_named(tmp_path: Path, uri: Any) -> None:
    message = refused(tmp_path, uri, InvalidDataError, train="data/bad.jsonl")
    assert message.startswith("bad.jsonl: 1 of 21 rows cannot be used: line 21: completion is empty")


NEIGHBOURS = {
    "s3": "s3://data holds bad.jsonl, notes/, set/",
    "gs": "no object has this key, and none lies below it",
    "az": "az://data holds bad.jsonl, notes/, set/",
}
"""What is there instead; a listing of one level of gs:// has no folders, so nothing is said of them."""


def test_data_that_is_not_there_is_told_from_a_store_that_is_down(tmp_path: Path, scheme: Scheme, uri: Any) -> None:
    message = refused(tmp_path, uri, SourceNotFoundError, train="data/sett")
    assert message == f"{uri('data/sett')} does not exist; {NEIGHBOURS[scheme.name]}"


@pytest.mark.parametrize(
    ("train", "want"),
    [
        ("nobucket/set", "nobucket/set does not exist; there is no bucket nobucket"),
        ("moving", "moving does not exist; the bucket is empty"),
        ("data/notes", "data/notes holds no data file"),
    ],
)
def test_a_place_without_data_says_what_is_missing(tmp_path: Path, uri: Any, train: str, want: str) -> None:
    assert refused(tmp_path, uri, SourceNotFoundError, train=train).startswith(uri(want))


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("models/pickled", "pytorch_model.bin is refused: such files can run code when read"),
        ("models/disguised", "model.safetensors is a pickle under the name of safetensors and is refused"),
        ("data/bad.jsonl", "data/bad.jsonl is a single file; name the folder"),
    ],
)
def test_a_model_that_cannot_be_used_says_why(tmp_path: Path, uri: Any, source: str, want: str) -> None:
    assert want in refused(tmp_path, uri, InvalidModelError, model={"source": uri(source)})


def test_wrong_keys_name_the_secret(
    tmp_path: Path, scheme: Scheme, uri: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in scheme.wrong_keys:
        monkeypatch.setenv(variable, value)
        message = refused(tmp_path, uri, SourceNotFoundError)
        assert message.startswith(f"{uri('models/team/tiny')} may not be used with these keys: name a Secret with ")
        assert scheme.keys[0] in message
        assert " in credentials, and check what they allow" in message
        monkeypatch.setenv(variable, server.environment[variable])


def test_without_keys_only_public_objects_are_asked_for(
    tmp_path: Path, scheme: Scheme, uri: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in scheme.keys:
        monkeypatch.delenv(variable)
    assert "may not be used with these keys" in refused(tmp_path, uri, SourceNotFoundError)


def ways_in(scheme: Scheme, server: Server) -> list[dict[str, str]]:
    """Secrets that let a client in, besides the one that all other tests use."""
    if scheme.name == "gs":
        return [
            {"STORAGE_EMULATOR_HOST": server.environment[scheme.address], "GOOGLE_CREDENTIALS": service_account_key()}
        ]
    if scheme.name == "s3":
        return [
            {**server.environment, "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": server.environment[scheme.address]}
        ]
    url = server.environment[scheme.address]
    return [
        {"AZURE_STORAGE_ACCOUNT": ACCOUNT, scheme.address: url, "AZURE_STORAGE_SAS_TOKEN": sas_token("rl")},
        {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, scheme.address: url, "AZURE_STORAGE_ACCOUNT_KEY": KEY},
        {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={url};"},
    ]


def test_every_way_in_that_the_docs_name_is_one(
    tmp_path: Path, scheme: Scheme, server: Server, uri: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, secret in enumerate(ways_in(scheme, server)):
        forget_keys(monkeypatch, dict(os.environ))
        for name, value in secret.items():
            monkeypatch.setenv(name, value)
        copy = bring_objects(uri("data/set"), tmp_path / str(number), lambda names: names)
        assert (copy / "test.jsonl").read_bytes() == OBJECTS["data/set/test.jsonl"]


@pytest.mark.parametrize("store", ["gs", "az"])
def test_what_everybody_may_read_needs_no_keys(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server").mkdir()
    with object_server(store, tmp_path / "server", "public") as running:
        running.put("public/set/a.jsonl", LINES)
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        for name in SCHEMES[store].keys:
            monkeypatch.delenv(name)
        copy = bring_objects(f"{store}://public/set", tmp_path / "copy", lambda names: names)
    assert (copy / "a.jsonl").read_bytes() == LINES


def test_a_service_accounts_key_that_is_none_is_told_from_a_store_that_is_down(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nonsense = json.dumps({**json.loads(service_account_key()), "private_key": "nonsense"})
    for name in ("GOOGLE_OAUTH_ACCESS_TOKEN", "GOOGLE_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_CREDENTIALS", nonsense)
    with pytest.raises(SourceNotFoundError, match="may not be used with these keys: name a Secret with GOOGLE_CREDENT"):
        bring_objects("gs://data/set", tmp_path, lambda names: names)
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in os.environ


def test_a_store_that_does_not_answer_is_unavailable(
    tmp_path: Path, scheme: Scheme, uri: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = server.environment[scheme.address].removeprefix("http://").partition("/")[0]
    monkeypatch.setenv(scheme.address, server.environment[scheme.address].replace(host, "127.0.0.1:9"))
    message = refused(tmp_path, uri, SourceUnavailableError)
    assert message.startswith(f"{uri('models/team/tiny')}: the store did not answer: ")


def test_a_certificate_is_trusted_only_by_the_authorities_of_the_machine(
    tmp_path: Path, scheme: Scheme, server: Server, uri: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = urlsplit(server.environment[scheme.address])
    with tls_tunnel(address.port or 0, tmp_path) as (port, authority):
        monkeypatch.setenv(scheme.address, f"https://127.0.0.1:{port}{address.path}")
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(SourceUnavailableError, match=r"(?i)ssl|certificate"):
            bring_objects(uri("data/set"), tmp_path / "copy", lambda names: names)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        copy = bring_objects(uri("data/set"), tmp_path / "copy", lambda names: names)
    assert (copy / "test.jsonl").read_bytes() == OBJECTS["data/set/test.jsonl"]


def test_an_address_that_is_none_is_named(
    tmp_path: Path, scheme: Scheme, uri: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(scheme.address, "minio:9000")
    assert f"{scheme.address} is not an address" in refused(tmp_path, uri, InvalidSpecError)


def test_only_what_has_changed_is_copied_again_and_what_is_gone_goes(tmp_path: Path, server: Server, uri: Any) -> None:
    server.put("moving/set/a.jsonl", b"one")
    server.put("moving/set/b.jsonl", b"two")
    folder = tmp_path / "copy"
    bring_objects(uri("moving/set"), folder, lambda names: names)
    kept = (folder / "a.jsonl").stat().st_ino
    time.sleep(1.1)  # stores keep times in whole seconds
    server.put("moving/set/b.jsonl", b"TWO")
    (folder / "left.jsonl").write_bytes(b"half")
    bring_objects(uri("moving/set"), folder, lambda names: names)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a.jsonl": b"one", "b.jsonl": b"TWO"}
    assert (folder / "a.jsonl").stat().st_ino == kept


def child_of(root: Path, uri: Any) -> Run:
    """A job on the model that job `first` has published in a bucket."""
    run = make_run(root, **spec(uri, model={"source": uri(PUBLISHED)}))
    model = digest(list_files(build_tiny_model("llama")))
    nearest = Ancestor(job="first", uid="u1", artifact="merged", uri=uri(PUBLISHED), digest=model)
    object.__setattr__(run, "request", run.request.model_copy(update={"lineage": [nearest]}))
    return run


def test_a_model_that_another_job_has_published_in_a_bucket_is_tuned_on_as_it_was_published(
    tmp_path: Path, server: Server, uri: Any
) -> None:
    assert prepare.execute(child_of(tmp_path / "first", uri)).outcome == "Succeeded"
    server.put(f"{PUBLISHED}/later.txt", b"not of the artefact")
    with pytest.raises(InvalidModelError, match=f"job://first: what lies at {uri(PUBLISHED)} is not what"):
        prepare.execute(child_of(tmp_path / "second", uri))
