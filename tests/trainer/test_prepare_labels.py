"""Stage prepare for heads of classes: which token tells the class, which rows are held out, what is refused."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from finetune_api.status import DatasetReport
from finetune_trainer.data import preparation
from finetune_trainer.data.examples import Example
from finetune_trainer.data.head_encoding import HeadEncoder
from finetune_trainer.data.records import UnusableRowError
from finetune_trainer.errors import InvalidDataError, InvalidSpecError, NotSupportedError, StageError
from finetune_trainer.run import Run
from finetune_trainer.stages import prepare
from head_jobs import TOPICS, Rows, entity_rows, topic_rows, write_rows
from tiny_models import build_tiny_model
from trainer_requests import make_run

pytestmark = pytest.mark.trainer
TEXT, TAGS = "classification", "token-classification"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Claims `models` with a tiny model and `data` with rows of topics and of entities."""
    models = tmp_path / "claims" / "models"
    models.mkdir(parents=True)
    shutil.copytree(build_tiny_model("llama"), models / "tiny")
    write_rows(tmp_path / "claims" / "data" / "text.jsonl", topic_rows(30))
    write_rows(tmp_path / "claims" / "data" / "tags.jsonl", entity_rows(30))
    return tmp_path


def dataset(name: str, **fields: Any) -> dict[str, Any]:
    return {"train": {"source": f"pvc://data/{name}"}, **fields}


def executed(root: Path, task: str, **spec: Any) -> tuple[Run, DatasetReport]:
    run = make_run(root, task=task, **spec)
    report = prepare.execute(run).dataset
    assert report is not None
    return run, report


def refused(root: Path, error: type[StageError], task: str, **spec: Any) -> str:
    with pytest.raises(error) as caught:
        prepare.execute(make_run(root, task=task, **spec))
    return str(caught.value)


def loaded(path: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(path))


def names_in(rows: Any) -> list[list[str]]:
    names = rows.features["classes"].feature.names
    return [[names[i] for i in row] for row in rows["classes"]]


def test_a_text_has_its_class_at_its_last_token_and_each_label_its_share_of_held_out_rows(root: Path) -> None:
    run, report = executed(root, TEXT, dataset=dataset("text.jsonl", evalFraction=0.2))
    train, held = loaded(run.workspace.train_rows), loaded(run.workspace.eval_rows)
    assert train.column_names == ["input_ids", "completion_mask", "classes"]
    assert train.features["classes"].feature.names == sorted(TOPICS)
    assert train["completion_mask"][:] == [[0] * (len(ids) - 1) + [1] for ids in train["input_ids"]]
    assert Counter(map(tuple, names_in(held))) == {(name,): 2 for name in TOPICS}
    assert [reference for [reference] in names_in(held)] == held["reference"]
    assert (report.format, report.label_count) == ("labelled-text", 3)
    assert [(found.label, found.count) for found in report.labels] == [(name, 8) for name in sorted(TOPICS)]
    assert report.supervised_tokens == report.train_rows == 24
    assert run.plan.training.loss_on == "label"
    assert run.plan.model.architecture == "LlamaForSequenceClassification"
    assert run.plan.metrics == ["eval_loss", "accuracy", "f1", "precision", "recall"]


def test_a_word_has_its_tag_at_its_first_token_and_nowhere_else(root: Path) -> None:
    run, report = executed(root, TAGS, dataset=dataset("tags.jsonl"))
    tokenizer = AutoTokenizer.from_pretrained(run.workspace.model)
    train = loaded(run.workspace.train_rows)
    names = train.features["classes"].feature.names
    assert names == ["B-LOC", "B-PER", "I-PER", "O"]
    wanted = {" ".join(row["tokens"]): row["tags"] for row in entity_rows(30)}
    split = 0
    for ids, mask, classes in zip(train["input_ids"], train["completion_mask"], train["classes"], strict=True):
        starts = [i for i, bit in enumerate(mask) if bit]
        pieces = [tokenizer.decode(ids[a:b]).strip() for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
        assert [names[i] for i in classes] == wanted[" ".join(pieces)]
        split += len(ids) - 1 > len(starts)
    assert split == len(train)
    assert sum(found.count for found in report.labels) == report.supervised_tokens
    assert run.plan.metrics == ["eval_loss", "accuracy", "f1", "precision", "recall", "seqeval"]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "phi3"])
def test_training_sees_the_tokens_that_an_application_makes_without_padding_at_the_end(family: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(build_tiny_model(family))
    want = tokenizer("Oil fell.")["input_ids"]
    for pad in (tokenizer.pad_token, tokenizer.eos_token):
        tokenizer.pad_token = pad
        row = HeadEncoder(tokenizer).encode(Example(text=f"Oil fell.{pad}{pad}", labels=("a",)))
        assert row.input_ids == want
        assert row.mask == [0] * (len(want) - 1) + [1]


def test_a_cut_keeps_the_class_of_a_text_and_the_tags_of_the_words_that_are_left() -> None:
    encoder = HeadEncoder(AutoTokenizer.from_pretrained(build_tiny_model("llama")))
    text = encoder.encode(Example(text="Oil prices fell.", labels=("a",))).cut(3)
    assert (len(text.input_ids), text.mask, text.labels) == (3, [0, 0, 1], ("a",))
    words = encoder.encode(Example(words=("Oil", "prices", "fell"), labels=("A", "B", "C")))
    second = [i for i, bit in enumerate(words.mask) if bit][1]
    cut = words.cut(second + 1)
    assert (cut.labels, cut.reference, len(cut.input_ids)) == (("A", "B"), "A B", second + 1)
    assert words.cut(second).labels == ("A",)


def test_rows_over_the_limit_fail_or_are_cut_with_their_tags(root: Path) -> None:
    short = dataset("tags.jsonl", maxLength=16)
    assert "rows are longer than 16 tokens" in refused(root, InvalidDataError, TAGS, dataset=short)
    run, report = executed(root, TAGS, dataset={**short, "overLength": "truncate"})
    assert report.over_length_rows > 20
    for rows in (loaded(run.workspace.train_rows), loaded(run.workspace.eval_rows)):
        assert all(len(ids) <= 16 for ids in rows["input_ids"])
        assert [sum(mask) for mask in rows["completion_mask"]] == [len(classes) for classes in rows["classes"]]


def test_a_word_that_no_token_begins_is_refused_by_its_number() -> None:
    tokenizer = AutoTokenizer.from_pretrained(build_tiny_model("llama"))
    tokenizer.add_tokens(["a b"])
    with pytest.raises(UnusableRowError, match="word 2, 'b', has no token of its own"):
        HeadEncoder(tokenizer).encode(Example(words=("a", "b"), labels=("O", "O")))


def test_names_of_class_labels_come_from_the_file(root: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    label = datasets.ClassLabel(names=["spam", "ham"])
    columns = {"text": [f"mail {i}" for i in range(8)], "label": [i % 2 for i in range(8)]}
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    datasets.Dataset.from_dict(columns, features).save_to_disk(str(root / "claims" / "data" / "saved"))
    datasets.Dataset.from_dict(columns, features).to_parquet(str(root / "claims" / "data" / "rows.parquet"))
    for name in ("saved", "rows.parquet"):
        run, report = executed(root, TEXT, dataset=dataset(name))
        assert [found.label for found in report.labels] == ["ham", "spam"]
        shutil.rmtree(run.workspace.root)


def bad(rows: Rows, name: str) -> Rows:
    return [*rows[:3], {**rows[3], name: None}, *rows[4:]]


def test_what_the_rows_do_not_allow_is_refused_with_their_numbers(root: Path) -> None:
    data = root / "claims" / "data"
    write_rows(data / "bad.jsonl", bad(topic_rows(9), "label"))
    write_rows(data / "one.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}])
    write_rows(data / "new.jsonl", [*topic_rows(3), {"text": "a", "label": "wheat"}])
    assert "line 4: label is missing" in refused(root, InvalidDataError, TEXT, dataset=dataset("bad.jsonl"))
    assert "every row has the label 'x'" in refused(root, InvalidDataError, TEXT, dataset=dataset("one.jsonl"))
    held = dataset("text.jsonl", eval={"source": "pvc://data/new.jsonl"})
    assert "new.jsonl line 4 has the label 'wheat', which no train row has" in refused(
        root, InvalidDataError, TEXT, dataset=held
    )
    assert "needs the column 'tokens'" in refused(root, InvalidDataError, TAGS, dataset=dataset("text.jsonl"))


@pytest.mark.parametrize(
    ("task", "spec", "error", "want"),
    [
        (TEXT, {"dataset": dataset("text.jsonl", packing=True)}, InvalidSpecError, "remove it, or set it to auto"),
        (
            TAGS,
            {"training": {"earlyStopping": {"metric": "perplexity"}}},
            InvalidSpecError,
            "perplexity is about words; use eval_loss",
        ),
        (TEXT, {"method": {"modulesToSave": ["lm_head"]}}, InvalidSpecError, "has no module 'lm_head'"),
        (TEXT, {"evaluation": {"metrics": ["seqeval"]}}, InvalidSpecError, "not a metric of task classification"),
    ],
)
def test_what_a_head_cannot_honour_is_refused_by_name(
    root: Path, task: str, spec: dict[str, Any], error: type[StageError], want: str
) -> None:
    name = "text.jsonl" if task == TEXT else "tags.jsonl"
    assert want in refused(root, error, task, **{"dataset": dataset(name), **spec})


def test_a_family_without_such_a_head_is_refused_with_the_way_out(root: Path) -> None:
    shutil.copytree(build_tiny_model("gemma3"), root / "claims" / "models" / "gemma3")
    message = refused(
        root, NotSupportedError, TAGS, model={"source": "pvc://models/gemma3"}, dataset=dataset("tags.jsonl")
    )
    assert "gemma3_text has no head for task: token-classification" in message


def test_tags_that_mark_no_entities_have_no_entity_metric(root: Path) -> None:
    rows = [{"tokens": ["the", f"bank{i}"], "tags": ["DET", "NOUN"]} for i in range(10)]
    write_rows(root / "claims" / "data" / "pos.jsonl", rows)
    run, _ = executed(root, TAGS, dataset=dataset("pos.jsonl"))
    assert "seqeval" not in run.plan.metrics
    asked = {"metrics": ["seqeval"]}
    message = refused(root, InvalidSpecError, TAGS, dataset=dataset("pos.jsonl"), evaluation=asked)
    assert "seqeval judges entities, and the tags DET, NOUN are not of the BIO scheme" in message


@pytest.mark.usefixtures("known_speed")
def test_another_job_on_the_claim_takes_over_the_rows_with_their_labels(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = {"output": {"workspace": {"claimName": "scratch"}}, "dataset": dataset("text.jsonl")}
    first, report = executed(root, TEXT, **shared)
    kept = loaded(first.workspace.train_rows)["classes"]
    for path in (first.workspace.train_rows, first.workspace.eval_rows):
        shutil.rmtree(path)
    assert [*first.workspace.root.glob("tokenised-rows/*/facts.json")]
    monkeypatch.setattr(preparation, "_encoded", None)  # nothing is read again
    again, taken = executed(root, TEXT, **shared)
    assert taken == report
    assert loaded(again.workspace.train_rows)["classes"] == kept
    assert again.plan == first.plan
