"""Artefacts in a bucket: published whole or not at all, never over somebody else's; a real server of each kind."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from azurite_server import sas_token
from finetune_api.names import OUTPUT_ENV_PREFIX
from finetune_trainer import object_clients
from finetune_trainer.errors import OutputUnwritableError, ParityError, PreemptedError, SourceUnavailableError
from finetune_trainer.exporting import buckets
from finetune_trainer.exporting.buckets import BucketDestination
from finetune_trainer.exporting.destinations import check_destination
from finetune_trainer.ownership import enter_attempt
from finetune_trainer.run import Run
from finetune_trainer.stages import export
from gcs_server import READER
from killed_export import KILLED, export_until
from object_servers import SCHEMES, Scheme, Server, forget_keys, object_server
from s3_server import s3_server
from tuned_runs import make_run, make_tuned_run

pytestmark = pytest.mark.trainer
ATTEMPTS = 4
ADAPTER, MERGED = {"name": "adapter", "format": "peft"}, {"name": "merged", "format": "safetensors"}


@pytest.fixture(scope="module", params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return SCHEMES[request.param]


@pytest.fixture(scope="module")
def server(scheme: Scheme, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with object_server(scheme.name, tmp_path_factory.mktemp(scheme.name), "out") as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the destination alone: those of sources must not be taken for it."""
    forget_keys(monkeypatch, dict(os.environ))
    for name, value in server.environment.items():
        monkeypatch.setenv(OUTPUT_ENV_PREFIX + name, value)
    monkeypatch.setattr(object_clients, "RETRY_SECONDS", 3.0)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    """Bucket and prefix, another one for each test."""
    return f"out/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


@pytest.fixture
def uri(scheme: Scheme, place: str) -> str:
    return f"{scheme.name}://{place}"


def waiting(root: Path, destination: str) -> Run:
    """A job that has not been trained: enough to ask whether it may publish, and to publish any files."""
    (root / "model").mkdir(exist_ok=True)
    return make_run(root, root / "model", exports=[ADAPTER], destination=destination)


@pytest.fixture
def run(uri: str, tmp_path: Path) -> Run:
    return waiting(tmp_path, uri)


def publish(run: Run, **files: str) -> BucketDestination:
    """Publish an artefact of `files` by the name `adapter`."""
    destination = BucketDestination(run)
    with destination.opened(), destination.staged("adapter") as folder:
        for name, content in files.items():
            (folder / name).write_text(content)
        destination.publish(folder, "adapter")
    return destination


def published(server: Server, place: str) -> dict[str, bytes]:
    """Objects under `place`, by their names there; marks of folders, which some clients leave, are none."""
    bucket, _, prefix = place.partition("/")
    found = {key: content for key, content in server.objects(bucket).items() if key.startswith(f"{prefix}/")}
    return {key.removeprefix(f"{prefix}/"): content for key, content in found.items() if not key.endswith("/")}


def report(server: Server, place: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(published(server, place)["report.json"])
    return content


def told(server: Server, place: str) -> dict[str, str]:
    """sha256 of every file of every artefact, as report.json has it."""
    artifacts = report(server, place)["artifacts"]
    return {f"{a['name']}/{file['name']}": file["sha256"] for a in artifacts for file in a["files"]}


def found(server: Server, place: str) -> dict[str, str]:
    """sha256 of everything that is there besides report and card."""
    objects = published(server, place)
    return {name: hashlib.sha256(content).hexdigest() for name, content in objects.items() if "/" in name}


def test_artefacts_report_and_card_are_published_and_nothing_else(
    server: Server, uri: str, place: str, tmp_path: Path
) -> None:
    run = make_tuned_run(tmp_path, exports=[ADAPTER, MERGED], destination=uri)
    check_destination(run)
    assert published(server, place) == {}
    result = export.execute(run)
    assert [artifact.uri for artifact in result.artifacts] == [f"{uri}/adapter", f"{uri}/merged"]
    assert result.message.startswith(f"published in {uri}: adapter (peft")
    assert {name.partition("/")[0] for name in published(server, place)} == {
        "README.md", "report.json", "adapter", "merged"
    }  # fmt: skip
    assert found(server, place) == told(server, place)
    assert report(server, place)["complete"] is True
    assert [a["digest"] for a in report(server, place)["artifacts"]] == [a.digest for a in result.artifacts]
    assert not (run.workspace.root / "export-staging").exists()


KILLS = {"s3": ["between two objects", "before the card"], "gs": ["before the artefact is in the report"]}


def test_an_export_that_was_killed_or_whose_artefact_was_damaged_ends_with_the_same_artefact(
    server: Server, scheme: Scheme, uri: str, place: str, tmp_path: Path
) -> None:
    run = make_tuned_run(tmp_path, exports=[ADAPTER], destination=uri)
    (tmp_path / "request.json").write_text(run.request.model_dump_json(by_alias=True, exclude_none=True))
    for point in KILLS.get(scheme.name, ["between two objects"]):
        assert export_until(point, tmp_path) == KILLED, "the point was never reached"
        complete = told(server, place)
        assert complete in ({}, found(server, place))
    want = export.execute(run).artifacts
    before = told(server, place)
    assert found(server, place) == before
    assert {name for name in published(server, place) if "/" not in name} == {"README.md", "report.json"}
    server.put(f"{place}/adapter/adapter_model.safetensors", b"damaged")
    server.put(f"{place}/adapter/left.bin", b"of an earlier model")
    assert export.execute(run).artifacts == want
    assert found(server, place) == told(server, place) == before


def fail_while_writing(destination: BucketDestination) -> None:
    with destination.opened(), destination.staged("adapter") as folder:
        (folder / "weights").write_text("wrong")
        raise ParityError("not the same")


def test_an_artefact_that_fails_on_the_way_is_not_there(run: Run, server: Server, place: str) -> None:
    with pytest.raises(ParityError):
        fail_while_writing(BucketDestination(run))
    assert published(server, place) == {}
    assert not (run.workspace.root / "export-staging").exists()


def test_an_artefact_replaces_the_jobs_own_and_what_no_longer_belongs_to_it_goes(
    run: Run, server: Server, place: str
) -> None:
    publish(run, weights="old", index="old")
    destination = publish(run, weights="new")
    assert published(server, place) == {"adapter/weights": b"new"}
    sha256 = hashlib.sha256(b"new").hexdigest()
    assert [(file.name, file.size, file.sha256) for file in destination.files("adapter")] == [("weights", 3, sha256)]


def test_an_object_that_a_leftover_attempt_has_deleted_before_is_no_obstacle(
    run: Run, server: Server, place: str
) -> None:
    destination = BucketDestination(run)
    server.put(f"{place}/adapter/weights", b"x")
    for _ in range(2):
        destination._delete(f"{place}/adapter/weights")
    assert published(server, place) == {}


def test_a_file_at_the_top_is_replaced_as_a_whole(run: Run, server: Server, place: str) -> None:
    destination = BucketDestination(run)
    for content in (b"a long old report", b"new"):
        destination.write("report.json", content)
        assert destination.read("report.json") == content
    assert published(server, place) == {"report.json": b"new"}


def test_a_file_at_the_top_stays_as_it_is_while_the_next_one_is_on_its_way(
    run: Run, server: Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    BucketDestination(run).write("report.json", b"old")
    streams = []

    def interrupted(self: BucketDestination, key: str, content: Iterator[bytes]) -> None:
        streams.append(self._store.files.open_output_stream(key))
        raise InterruptedError

    monkeypatch.setattr(BucketDestination, "_send", interrupted)
    with pytest.raises(InterruptedError):
        BucketDestination(run).write("report.json", b"new")
    assert published(server, place)["report.json"] == b"old"
    for stream in streams:
        stream.close()  # while there still is a server


def test_a_file_of_many_pieces_arrives_whole(
    run: Run, server: Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "CHUNK", 1 << 16)
    content = "".join(f"{number:07d}\n" for number in range(9 * (1 << 13) + 1))
    publish(run, weights=content)
    assert published(server, place) == {"adapter/weights": content.encode()}


def refused(run: Run) -> str:
    """Why prepare and export refuse the destination, each by itself."""
    early, late = reason(lambda: check_destination(run)), reason(lambda: export.execute(run))
    assert early[:80] == late[:80]
    return early


def reason(ask: Callable[[], object]) -> str:
    """Why `ask` is refused. Azure's client cannot read one in thirty of Azurite's refusals (their body comes in chunks)
    and takes it for no answer; then it is asked again, as the operator does."""
    for _ in range(ATTEMPTS):
        try:
            ask()
        except OutputUnwritableError as refusal:
            return str(refusal)
        except SourceUnavailableError as unread:
            assert "Unexpected format in HTTP response" in str(unread.__cause__)  # noqa: PT017 - not the refusal
    raise AssertionError(f"not refused in {ATTEMPTS} attempts")


def test_a_destination_of_another_job_is_refused_before_and_after_training(
    run: Run, server: Server, uri: str, place: str
) -> None:
    server.put(f"{place}/report.json", json.dumps({"job": {"uid": "uid-2"}}).encode())
    assert refused(run) == (
        f"output.destination {uri}: {uri}/report.json belongs to another job; choose a folder of its own for bot, or "
        "delete what is there"
    )
    assert [*published(server, place)] == ["report.json"]


@pytest.mark.parametrize("name", ["adapter/weights.bin", "README.md", "report.json"])
def test_what_the_job_did_not_publish_is_never_overwritten(run: Run, server: Server, place: str, name: str) -> None:
    server.put(f"{place}/{name}", b"somebody's")
    assert f"{place}/{name.partition('/')[0]} exists and is not this job's" in refused(run)
    assert published(server, place) == {name: b"somebody's"}


def test_other_objects_of_the_bucket_are_no_obstacle(run: Run, server: Server, place: str) -> None:
    server.put(f"{place}/notes.txt", b"x")
    server.put(f"{place}-other/report.json", b"{}")
    check_destination(run)


def test_a_bucket_that_is_not_there_is_refused(scheme: Scheme, tmp_path: Path) -> None:
    uri = f"{scheme.name}://nobucket/bot"
    want = f"output.destination {uri}: there is no bucket nobucket; create it, or choose another one"
    assert refused(waiting(tmp_path, uri)) == want


def test_wrong_keys_are_refused_before_training(
    run: Run, scheme: Scheme, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in scheme.wrong_keys:
        monkeypatch.setenv(OUTPUT_ENV_PREFIX + variable, value)
    message = refused(run)
    assert message.startswith(f"{scheme.name}://{place} may not be used with these keys: name a Secret with ")
    assert "in output.credentials, and check what they allow" in message


@pytest.fixture
def readers_keys(scheme: Scheme, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables that let a client look and not write; the server of s3:// has no such account, but is such a server."""
    if scheme.name == "gs":
        yield {"GOOGLE_OAUTH_ACCESS_TOKEN": READER}
    elif scheme.name == "az":
        yield {"AZURE_STORAGE_KEY": "", "AZURE_STORAGE_SAS_TOKEN": sas_token("rl")}
    else:
        with s3_server(tmp_path_factory.mktemp("readonly"), "out", readonly=True) as reader:
            yield reader.environment


def test_keys_that_may_only_read_are_refused_before_training(
    run: Run, server: Server, place: str, readers_keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in readers_keys.items():
        monkeypatch.setenv(OUTPUT_ENV_PREFIX + name, value)
    assert " may not be used with these keys: " in refused(run)
    assert published(server, place) == {}


def test_a_store_that_does_not_answer_is_tried_again_later(
    run: Run, scheme: Scheme, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = server.environment[scheme.address].removeprefix("http://").partition("/")[0]
    address = server.environment[scheme.address].replace(host, "127.0.0.1:9")
    monkeypatch.setenv(OUTPUT_ENV_PREFIX + scheme.address, address)
    for ask in (check_destination, export.execute):
        with pytest.raises(SourceUnavailableError, match=": the store did not answer: "):
            ask(run)


def test_what_arrives_otherwise_than_it_was_sent_is_found_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    send = BucketDestination._send

    def lossy(self: BucketDestination, key: str, content: Iterator[bytes]) -> None:
        send(self, key, (piece[:-1] if key.endswith("weights") else piece for piece in content))

    monkeypatch.setattr(BucketDestination, "_send", lossy)
    with pytest.raises(SourceUnavailableError, match="adapter did not arrive as it was sent; it is sent again"):
        publish(run, weights="heavy", index="short")


def test_a_leftover_attempt_publishes_nothing(run: Run, server: Server, place: str) -> None:
    enter_attempt(run.workspace.root, run.request.model_copy(update={"attempt": 2}))
    with pytest.raises(PreemptedError, match="leftover"):
        publish(run, weights="heavy")
    assert published(server, place) == {}
