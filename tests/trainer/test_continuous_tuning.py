"""A model that another job has published is tuned on only as it was published."""

import shutil
from pathlib import Path

import pytest

from finetune_api.status import Ancestor
from finetune_trainer.errors import InvalidModelError
from finetune_trainer.exporting.digests import digest, list_files
from finetune_trainer.run import Run
from finetune_trainer.stages import prepare
from tiny_models import build_tiny_model
from trainer_requests import make_run

pytestmark = pytest.mark.trainer


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The claims: a model that the job `first` has published, and rows."""
    model = tmp_path / "claims" / "models" / "first" / "merged"
    shutil.copytree(build_tiny_model("llama"), model)
    (tmp_path / "claims" / "data").mkdir()
    rows = "".join(f'{{"prompt": "p{i}", "completion": "c{i}"}}\n' for i in range(20))
    (tmp_path / "claims" / "data" / "train.jsonl").write_text(rows)
    return model


def child_of(published: Path, root: Path) -> Run:
    uri = "pvc://models/first/merged"
    nearest = Ancestor(job="first", uid="u1", artifact="merged", uri=uri, digest=digest(list_files(published)))
    run = make_run(root, model={"source": uri})
    object.__setattr__(run, "request", run.request.model_copy(update={"lineage": [nearest]}))
    return run


def test_a_published_model_is_prepared_like_any_other(published: Path, tmp_path: Path) -> None:
    assert prepare.execute(child_of(published, tmp_path)).outcome == "Succeeded"


def test_a_published_model_that_was_changed_is_refused(published: Path, tmp_path: Path) -> None:
    run = child_of(published, tmp_path)
    weights = published / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InvalidModelError, match="job://first: what lies at pvc://models/first/merged is not what"):
        prepare.execute(run)
