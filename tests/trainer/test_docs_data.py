"""docs/data.md: every manifest it names is prepared, and every row it refuses is refused with the reason it gives."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet  # type: ignore[import-untyped]
import pytest
import yaml

from finetune_api.names import OUTPUT_ENV_PREFIX
from finetune_api.support import unsupported
from finetune_trainer.errors import InvalidDataError
from finetune_trainer.stages import prepare
from object_servers import SCHEMES, Server, object_server
from tiny_models import build_long_model
from trainer_requests import make_run

pytestmark = pytest.mark.trainer
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "data"
PAGE = (ROOT / "docs" / "data.md").read_text()
MANIFESTS = re.findall(r"^\| \[(\S+)\.yaml\]\(\S+\) \| (\S+) \| (.+?) \| (\d+) \+ (\d+) \|$", PAGE, re.MULTILINE)
REFUSED = re.findall(r"^\| `([\[{].*?)` \| (.+) \|$", PAGE.partition("## Checks")[2], re.MULTILINE)


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Claims `models` and `data` as the manifests name them."""
    root = tmp_path_factory.mktemp("claims")
    build_long_model("qwen2", root / "models" / "tiny")
    shutil.copytree(EXAMPLES / "rows", root / "data" / "rows")
    make_files(root / "data" / "rows" / "chat.jsonl", root / "data" / "made")
    return root


def make_files(chat: Path, made: Path) -> None:
    """The same rows, stored in the ways that are no text."""
    import datasets

    (made / "parquet").mkdir(parents=True)
    (made / "chat.jsonl.zst").write_bytes(pyarrow.compress(chat.read_bytes(), codec="zstd", asbytes=True))
    with zipfile.ZipFile(made / "chat.zip", "w") as archive:
        archive.write(chat, "train.jsonl")
        archive.writestr("test.jsonl", "not looked at")
    table = pyarrow.Table.from_pylist([json.loads(line) for line in chat.read_text().splitlines()])
    pyarrow.parquet.write_table(table, made / "parquet" / "train-00000-of-00001.parquet")
    datasets.disable_progress_bars()
    datasets.Dataset(table).save_to_disk(str(made / "saved"))


@pytest.fixture(scope="module")
def servers(claims: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """A store of each kind with the files of the claims."""
    with ExitStack() as stack:
        running = {
            scheme: stack.enter_context(object_server(scheme, tmp_path_factory.mktemp(scheme), "models", "data"))
            for scheme in SCHEMES
        }
        for file in [file for file in claims.rglob("*") if file.is_file()]:
            for server in running.values():
                server.put(file.relative_to(claims).as_posix(), file.read_bytes())
        yield running


def test_every_manifest_in_the_folder_is_on_the_page() -> None:
    assert sorted(name for name, *_ in MANIFESTS) == sorted(file.stem for file in EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize(("name", "want_format", "want_files", "want_train", "want_held"), MANIFESTS)
def test_every_manifest_is_prepared_as_the_page_says(
    name: str,
    want_format: str,
    want_files: str,
    want_train: str,
    want_held: str,
    claims: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = (EXAMPLES / f"{name}.yaml").read_text()
    for scheme in [scheme for scheme in SCHEMES if f"{scheme}://" in manifest]:
        for variable, value in request.getfixturevalue("servers")[scheme].environment.items():
            monkeypatch.setenv(variable, value)
            monkeypatch.setenv(OUTPUT_ENV_PREFIX + variable, value)
    (tmp_path / "claims").symlink_to(claims, target_is_directory=True)
    run = make_run(tmp_path, **yaml.safe_load(manifest)["spec"])
    assert unsupported(run.spec) == []
    report = prepare.execute(run).dataset
    assert report is not None
    assert (report.format, report.file_format) == (want_format, want_files)
    assert (report.train_rows, report.eval_rows) == (int(want_train), int(want_held))
    assert report.warnings == []


@pytest.mark.parametrize(("row", "want"), REFUSED)
def test_every_row_that_the_page_refuses_is_refused_for_its_reason(
    row: str, want: str, claims: Path, tmp_path: Path
) -> None:
    good = (EXAMPLES / "rows" / "chat.jsonl").read_text()
    (tmp_path / "claims" / "data").mkdir(parents=True)
    (tmp_path / "claims" / "models").symlink_to(claims / "models", target_is_directory=True)
    (tmp_path / "claims" / "data" / "train.jsonl").write_text(f"{good}{row}\n")
    with pytest.raises(InvalidDataError) as caught:
        prepare.execute(make_run(tmp_path))
    assert f"train.jsonl: 1 of 13 rows cannot be used: line 13: {want}. Fix it" in str(caught.value)


def test_the_page_has_the_rows_that_are_refused() -> None:
    assert len(REFUSED) >= 13
