"""Continued pretraining: texts of any length become blocks, packed; what is no text is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk

from finetune_api.contract import StageResult
from finetune_trainer.errors import InvalidDataError
from finetune_trainer.run import Run
from finetune_trainer.stages import prepare
from tiny_models import build_tiny_model
from trainer_requests import make_run

pytestmark = pytest.mark.trainer


def prepared(folder: Path, rows: list[dict[str, Any]], **dataset: Any) -> tuple[Run, StageResult]:
    shutil.copytree(build_tiny_model("llama"), folder / "claims" / "models" / "tiny")
    (folder / "claims" / "data").mkdir()
    (folder / "claims" / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"train": {"source": "pvc://data/train.jsonl"}}
    run = make_run(folder, task="completion", training={"objective": "pretrain"}, dataset=source | dataset)
    return run, prepare.execute(run)


TEXTS = [{"text": f"{i} " + "oil prices fell " * (1 + 40 * (i % 4))} for i in range(8)]


def test_long_texts_are_cut_into_blocks_that_stay_on_one_side(tmp_path: Path) -> None:
    run, result = prepared(tmp_path, TEXTS, maxLength=64, evalFraction=0.25)
    train, held = (load_from_disk(str(path)) for path in (run.workspace.train_rows, run.workspace.eval_rows))
    report, plan = result.dataset, result.plan
    assert report is not None
    assert plan is not None
    assert (plan.training.packing, plan.training.max_length, plan.metrics) == (True, 64, ["eval_loss", "perplexity"])
    assert report.over_length_rows == 6
    assert report.train_rows == len(train) > 6
    assert max(map(len, train["input_ids"])) == 64
    begins = [sum(mask[0] for mask in rows["completion_mask"]) for rows in (train, held)]
    assert begins == [6, 2]


@pytest.mark.parametrize(("over", "want_rows"), [("drop", 2), ("truncate", 8)])
def test_over_length_may_still_leave_texts_or_their_ends_out(tmp_path: Path, over: str, want_rows: int) -> None:
    run, result = prepared(tmp_path, TEXTS, maxLength=64, overLength=over, evalFraction=0)
    assert result.dataset is not None
    assert (result.dataset.over_length_rows, len(load_from_disk(str(run.workspace.train_rows)))) == (6, want_rows)


def test_what_is_no_text_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError) as caught:
        prepared(tmp_path, [{"prompt": "a", "completion": "b"}] * 3)
    assert str(caught.value).startswith("training.objective: pretrain learns plain text")
    assert "Rename with dataset.columns: {text: <column>}" in str(caught.value)
