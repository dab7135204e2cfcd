"""Which models an evaluation asks, and that a whole tuned model makes room for the base."""

import weakref
from pathlib import Path
from typing import Any

import pytest

from builders import make_plan
from finetune_api.status import Stage
from finetune_trainer.evaluating import models
from finetune_trainer.evaluating.losses import OnRows
from finetune_trainer.evaluating.measuring import Task
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.run import Run
from trainer_requests import make_run

NO_TOKENIZER: Any = None
TASK = Task([EvalRow(0, [1], [1], [], "")], ["eval_loss"], NO_TOKENIZER, stops=[], max_new_tokens=1)


class Weights:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    run = make_run(tmp_path, Stage.EVALUATE)
    run.workspace.plan.write_text(make_plan().model_dump_json(by_alias=True))
    tuned = Weights("tuned")
    alive, held = weakref.ref(tuned), [tuned]
    del tuned

    def load_model(*_: Any) -> Weights:
        assert alive() is None
        return Weights("base")

    monkeypatch.setattr(models, "load_tuned", lambda _: held.pop())
    monkeypatch.setattr(models, "load_model", load_model)
    return run


def name_of(model: Any, task: Task, on_rows: OnRows) -> str:
    on_rows(len(task.rows))
    return str(model.name)


def test_a_whole_tuned_model_is_gone_before_the_base_is_loaded(run: Run) -> None:
    assert models.Contestants(run).asked(name_of, TASK, baseline=True) == ("tuned", "base")


def test_the_tuned_model_is_loaded_once_however_often_it_is_looked_at(run: Run) -> None:
    contestants = models.Contestants(run)
    assert contestants.tuned is contestants.tuned
    assert contestants.asked(name_of, TASK, baseline=False) == ("tuned", None)
