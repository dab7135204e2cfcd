"""A model that comes with a head, as a job has published it, is tuned further with that head, or refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from finetune_api.contract import StageResult
from finetune_api.status import Stage
from finetune_trainer.errors import InvalidDataError, InvalidModelError, NotSupportedError
from finetune_trainer.models.heads import head_module, head_of, kept_head
from finetune_trainer.models.load import load_source, load_tuned
from finetune_trainer.stages import evaluate, export, prepare
from head_jobs import head_run, make_root, topic_rows, trained, write_rows

pytestmark = pytest.mark.trainer
WHOLE = {"exports": [{"name": "whole", "format": "safetensors"}], "output": {"destination": "pvc://models/first"}}
Published = tuple[Path, str, StageResult]
TASKS = ("classification", "token-classification")


def evaluation_of(root: Path, task: str, workspace: str, **parts: Any) -> StageResult:
    trained(root, task, workspace, **parts)
    return evaluate.execute(head_run(root, Stage.EVALUATE, task, workspace, **parts))


@pytest.fixture(scope="module", params=[("llama", TASKS[0]), ("qwen2", TASKS[1])], ids=str)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Claims with pvc://models/first/whole, which a job of the task has published, the task, and its evaluation."""
    family, task = request.param
    root = make_root(tmp_path_factory.mktemp("published"), family)
    result = evaluation_of(root, task, "first", **WHOLE)
    export.execute(head_run(root, Stage.EXPORT, task, "first", **WHOLE))
    return root, task, result


SECOND = {"model": {"source": "pvc://models/first/whole"}}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_head_is_tuned_further_and_the_published_model_is_the_baseline(published: Published, method: str) -> None:
    root, task, first = published
    small = {"learningRate": 1e-7, "scheduler": "constant"}
    result = evaluation_of(root, task, f"second-{method}", **SECOND, method={"type": method}, training=small)
    assert first.evaluation is not None
    assert result.evaluation is not None
    before, after = result.evaluation.baseline, result.evaluation.tuned
    assert {name: float(value) for name, value in before.items()} == pytest.approx(
        {name: float(value) for name, value in first.evaluation.tuned.items()}, rel=1e-4
    )
    assert float(after["eval_loss"]) == pytest.approx(float(before["eval_loss"]), rel=1e-2)


def test_training_starts_from_the_values_of_the_head(published: Published) -> None:
    root, task, _ = published
    prepare.execute(head_run(root, Stage.PREPARE, task, "start", **SECOND))
    run = head_run(root, Stage.TRAIN, task, "start", **SECOND)
    head = head_of(run)
    assert head is not None
    assert not head.is_new
    found, rounded = (head_module(load_source(run, precision, "sdpa", head)).weight for precision in ("fp32", "bf16"))
    first = head_run(root, Stage.TRAIN, task, "first", **WHOLE)
    wanted = dict(load_tuned(first).named_parameters())
    [trained_head] = [value for name, value in wanted.items() if "modules_to_save" in name and name.endswith("weight")]
    assert torch.equal(found, trained_head)
    assert torch.equal(rounded, trained_head)  # only the body is held in bf16


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Claims with a classifier of three topics as pvc://models/first/whole."""
    root = make_root(tmp_path)
    trained(root, "classification", "first", **WHOLE, evaluation={"baseline": False})
    export.execute(head_run(root, Stage.EXPORT, "classification", "first", **WHOLE))
    return root


def prepare_second(root: Path, task: str = "classification") -> None:
    prepare.execute(head_run(root, Stage.PREPARE, task, "second", **SECOND))


def test_rows_may_lack_a_class_of_the_head_and_keep_its_order(classifier: Path) -> None:
    two = [row for row in topic_rows(60) if row["label"] != "grain"]
    write_rows(classifier / "claims" / "data" / "classification.jsonl", two)
    prepare_second(classifier)
    head = head_of(head_run(classifier, Stage.TRAIN, "classification", "second", **SECOND))
    assert head is not None
    assert head.classes == ("grain", "money-fx", "ship")


def test_a_label_that_the_head_has_not_is_refused_with_its_row(classifier: Path) -> None:
    rows = topic_rows(30)
    rows[4]["label"] = "wheat"
    write_rows(classifier / "claims" / "data" / "classification.jsonl", rows)
    with pytest.raises(InvalidDataError, match=r"line 5 has the label 'wheat', .* it tells grain, money-fx, ship"):
        prepare_second(classifier)


def test_held_out_rows_must_have_labels_of_the_head_too(classifier: Path) -> None:
    write_rows(classifier / "claims" / "data" / "held.jsonl", [{"text": "a", "label": "wheat"}])
    sources = {"train": "classification", "eval": "held"}
    data = {part: {"source": f"pvc://data/{name}.jsonl"} for part, name in sources.items()}
    with pytest.raises(InvalidDataError, match=r"line 1 has the label 'wheat', .* it tells grain, money-fx, ship"):
        prepare.execute(head_run(classifier, Stage.PREPARE, "classification", "second", **SECOND, dataset=data))


def test_a_head_without_names_has_those_of_the_library(classifier: Path) -> None:
    configured(classifier, id2label=None)
    with pytest.raises(InvalidModelError, match="id2label does not name"):
        prepare_second(classifier)
    folder = classifier / "claims" / "models" / "first" / "whole"
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in document.items() if "label" not in k}))
    found = kept_head(folder, "pvc://models/first/whole")
    assert found is not None
    assert found.classes == ("LABEL_0", "LABEL_1")


def test_another_task_is_refused(classifier: Path) -> None:
    with pytest.raises(NotSupportedError, match=r"no language model: it has a head for task: classification .*grain"):
        prepare_second(classifier, "token-classification")


def configured(root: Path, **changed: Any) -> None:
    file = root / "claims" / "models" / "first" / "whole" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label does not name the classes"),
        ({"id2label": {"0": "a", "1": 7}}, "id2label does not name the classes"),
        ({"id2label": ["a", "b"]}, "id2label does not name the classes"),
        ({"problem_type": "multi_label_classification"}, "only a head that tells one class is tuned"),
        ({"id2label": {"0": "a", "1": "b"}}, r"score.weight has shape \[3, \d+\] where config.json asks for \[2"),
    ],
)
def test_a_head_whose_configuration_is_not_sound_is_refused(classifier: Path, changed: Any, want: str) -> None:
    configured(classifier, **changed)
    with pytest.raises(InvalidModelError, match=want):
        prepare_second(classifier)


def test_a_head_with_layers_of_its_own_is_refused(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    folder = root / "claims" / "models" / "first" / "whole"
    shutil.copytree(root / "claims" / "models" / "tiny", folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=600, **sizes, num_labels=3, id2label={0: "grain", 1: "money-fx", 2: "ship"})
    BertForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(
        NotSupportedError,
        match=r"BertForSequenceClassification cannot .* only a linear layer called score",
    ):
        prepare_second(root)
