"""Jobs that share a claim share tokenised rows, as long as nothing that rows depend on differs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_api.contract import StageResult
from finetune_trainer.data import row_cache
from finetune_trainer.ownership import job_folder
from finetune_trainer.run import Run, Workspace
from finetune_trainer.stages import prepare
from tiny_models import build_tiny_model
from trainer_requests import make_run

pytestmark = pytest.mark.trainer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Claims with a model and rows, and an empty shared claim."""
    shutil.copytree(build_tiny_model("llama"), tmp_path / "claims" / "models" / "tiny")
    write_rows(tmp_path, 20)
    return tmp_path


def write_rows(root: Path, count: int) -> None:
    path = root / "claims" / "data" / "train.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": f"p{i}", "completion": f"c{i}"}) + "\n" for i in range(count)))


def prepared(root: Path, uid: str, *, shared: bool = True, **spec: Any) -> tuple[Run, StageResult]:
    output = {"workspace": {"claimName": "shared"}} if shared else {}
    run = make_run(root, uid=uid, output=output, **spec)
    folder = job_folder(root / "shared" if shared else root / "own" / uid, uid)
    run = Run(run.request, Workspace(folder), run.claim_path, run.progress)
    return run, prepare.execute(run)


def entries(root: Path) -> list[Path]:
    return sorted((root / "shared" / row_cache.FOLDER).glob("*"))


def rows(run: Run) -> Any:
    from datasets import load_from_disk

    return [load_from_disk(str(path))[:] for path in (run.workspace.train_rows, run.workspace.eval_rows)]


def encode_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("rows were encoded again")

    monkeypatch.setattr("finetune_trainer.data.encoding.RowEncoder.encode", fail)


@pytest.mark.usefixtures("known_speed")
def test_the_second_job_takes_the_rows_of_the_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, want = prepared(root, "a")
    encode_nothing(monkeypatch)
    second, result = prepared(root, "b")
    assert second.workspace.root.parent == first.workspace.root
    assert (result.plan, result.dataset) == (want.plan, want.dataset)
    assert rows(second) == rows(first)
    assert len(entries(root)) == 1


@pytest.mark.parametrize(
    "spec",
    [
        {"dataset": {"train": {"source": "pvc://data/train.jsonl"}, "shuffleSeed": 7}},
        {"dataset": {"train": {"source": "pvc://data/train.jsonl"}, "maxLength": 64}},
        {
            "model": {
                "source": "pvc://models/tiny",
                "chatTemplate": "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}",
            }
        },
        {"task": "completion"},
    ],
    ids=["seed", "length", "template", "task"],
)
def test_another_spec_of_the_rows_is_another_entry(root: Path, spec: dict[str, Any]) -> None:
    prepared(root, "a")
    prepared(root, "b", **spec)
    assert len(entries(root)) == 2


def test_other_rows_under_the_same_name_are_another_entry(root: Path) -> None:
    prepared(root, "a")
    write_rows(root, 30)
    _, result = prepared(root, "b")
    assert result.dataset is not None
    assert result.dataset.train_rows + result.dataset.eval_rows == 30
    assert len(entries(root)) == 2


def test_another_way_to_train_is_the_same_entry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(root, "a")
    encode_nothing(monkeypatch)
    prepared(root, "b", method={"type": "full"}, training={"epochs": 1})
    assert len(entries(root)) == 1


@pytest.mark.parametrize("damage", ["cut", "facts", "gone"])
def test_a_damaged_entry_is_not_used(root: Path, damage: str) -> None:
    _, want = prepared(root, "a")
    (entry,) = entries(root)
    arrow = next(entry.rglob("*.arrow"))
    if damage == "cut":
        arrow.write_bytes(arrow.read_bytes()[:-8])
    elif damage == "facts":
        (entry / "facts.json").write_text("{")
    else:
        arrow.unlink()
    _, result = prepared(root, "b")
    assert result.dataset == want.dataset


def test_the_entry_that_was_used_longest_ago_goes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "ENTRIES", 2)
    for i, seed in enumerate((1, 2, 3)):
        prepared(root, f"job{i}", dataset={"train": {"source": "pvc://data/train.jsonl"}, "shuffleSeed": seed})
    assert len(entries(root)) == 2


def test_a_job_with_a_claim_of_its_own_keeps_nothing(root: Path) -> None:
    prepared(root, "a", shared=False)
    assert not [*root.rglob(row_cache.FOLDER)]
