"""Preferences through all four stages: the rows that prepare leaves, what evaluate measures, what export compares."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.contract import StageResult
from finetune_api.status import Evaluation
from finetune_trainer.errors import StageError
from finetune_trainer.evaluating.preferences import opponents
from finetune_trainer.evaluating.rows import EvalRow
from finetune_trainer.run import Run
from finetune_trainer.stages import evaluate, export, prepare, train
from finetune_trainer.stages.export import held_out
from tiny_models import FAMILIES, build_tiny_model
from trainer_requests import make_run
from tuned_runs import QUESTIONS

pytestmark = pytest.mark.trainer
REJECTED = "I cannot say anything about this"
Rows = list[dict[str, Any]]


def pairs(count: int = 3) -> Rows:
    return [
        {"prompt": f"{question} ({i})", "chosen": answer, "rejected": REJECTED}
        for i in range(count)
        for question, answer in QUESTIONS.items()
    ]


def verdicts() -> Rows:
    return [
        {"prompt": row["prompt"], "completion": row["chosen" if i % 2 else "rejected"], "label": i % 2 == 1}
        for i, row in enumerate(pairs())
    ]


def root_of(folder: Path, rows: Rows, family: str = "qwen2") -> Path:
    shutil.copytree(build_tiny_model(family), folder / "claims" / "models" / "tiny")
    (folder / "claims" / "data").mkdir()
    (folder / "claims" / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def job(root: Path, objective: str = "dpo", **spec: Any) -> Run:
    training = {"objective": objective, "precision": "fp32", "maxSteps": 12, "learningRate": 1e-3, "batchSize": 4}
    dataset = {"train": {"source": "pvc://data/train.jsonl"}, **spec.pop("dataset", {})}
    spec["training"] = training | spec.get("training", {})
    return make_run(root, task="preference", dataset=dataset, reporting={"tensorboard": False}, cpu_limit=1.0, **spec)


def prepared(
    folder: Path, rows: Rows, objective: str = "dpo", family: str = "qwen2", **dataset: Any
) -> tuple[Run, StageResult]:
    run = job(root_of(folder, rows, family), objective, dataset=dataset)
    return run, prepare.execute(run)


def refused(folder: Path, rows: Rows, objective: str = "dpo", **dataset: Any) -> str:
    with pytest.raises(StageError) as caught:
        prepared(folder, rows, objective, **dataset)
    return str(caught.value)


# -- prepare ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gemma3"])
def test_both_answers_follow_the_same_prompt_and_alone_carry_loss_with_their_end(tmp_path: Path, family: str) -> None:
    run, _ = prepared(tmp_path, pairs(), family=family)
    tokenizer = AutoTokenizer.from_pretrained(run.workspace.model)
    end = tokenizer.convert_tokens_to_ids(FAMILIES[family].end_of_turn)
    rows = load_from_disk(str(run.workspace.train_rows))
    assert rows.column_names == ["input_ids", "completion_mask", "other_ids", "other_mask"]
    for row in rows:
        starts = [row[name].index(1) for name in ("completion_mask", "other_mask")]
        assert row["input_ids"][: starts[0]] == row["other_ids"][: starts[1]]
        for ids, mask in ((row["input_ids"], row["completion_mask"]), (row["other_ids"], row["other_mask"])):
            *answer, last = said(ids, mask)
            assert last == end
            assert tokenizer.decode(answer).rpartition("</think>")[2].strip() in (*QUESTIONS.values(), REJECTED)


def test_without_a_chat_template_answers_are_plain_continuation(tmp_path: Path) -> None:
    run = job(root_of(tmp_path, [{**row, "chosen": " yes", "rejected": " no"} for row in pairs()]))
    settings = tmp_path / "claims" / "models" / "tiny"
    (settings / "chat_template.jinja").unlink()
    prepare.execute(run)
    tokenizer = AutoTokenizer.from_pretrained(run.workspace.model)
    row = load_from_disk(str(run.workspace.train_rows))[0]
    assert tokenizer.decode(row["input_ids"]).endswith(f") yes{tokenizer.eos_token}")
    assert tokenizer.decode(row["other_ids"]).endswith(f") no{tokenizer.eos_token}")


def test_the_report_counts_pairs_and_the_tokens_of_both_answers(tmp_path: Path) -> None:
    run, result = prepared(tmp_path, [*pairs(), pairs()[0]])
    report, rows = result.dataset, load_from_disk(str(run.workspace.train_rows))
    assert report is not None
    assert (report.format, report.train_rows + report.eval_rows, len(rows)) == ("preference", 25, report.train_rows)
    assert report.train_tokens == sum(map(len, [*rows["input_ids"], *rows["other_ids"]]))
    assert report.supervised_tokens == sum(map(sum, [*rows["completion_mask"], *rows["other_mask"]]))
    assert "train.jsonl: 1 rows say the same as an earlier one: line 25 as line 1" in report.warnings
    assert result.plan is not None
    assert result.plan.metrics == ["eval_loss", "accuracy"]


def test_bad_pairs_are_named_with_line_and_reason(tmp_path: Path) -> None:
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    message = refused(tmp_path, [*pairs(1), same, {"prompt": "a", "chosen": "", "rejected": "b"}])
    assert "2 of 10 rows cannot be used: line 9: chosen and rejected are the same, so nothing is preferred" in message
    assert "line 10: chosen is empty" in message


@pytest.mark.parametrize(("over", "want_rows"), [("drop", 8), ("truncate", 9)])
def test_a_pair_is_over_length_when_either_answer_is(tmp_path: Path, over: str, want_rows: int) -> None:
    rows = [*pairs(1), {"prompt": "Why?", "chosen": "five", "rejected": "no " * 90}]
    run, result = prepared(tmp_path, rows, maxLength=100, overLength=over, evalFraction=0)
    found = load_from_disk(str(run.workspace.train_rows))
    assert result.dataset is not None
    assert (result.dataset.over_length_rows, len(found)) == (1, want_rows)
    assert max(map(len, found["other_ids"])) <= 100
    assert all(map(sum, [*found["completion_mask"], *found["other_mask"]]))


def test_an_answer_of_which_nothing_is_left_after_the_cut_is_a_bad_row(tmp_path: Path) -> None:
    long = {"prompt": "Why? " * 60, "chosen": "five", "rejected": "no"}
    message = refused(tmp_path, [*pairs(1), long], maxLength=100, overLength="truncate")
    assert "line 9: no token of the answer is left after the cut at 100 tokens" in message


def test_kto_takes_pairs_apart_and_keeps_them_on_one_side(tmp_path: Path) -> None:
    run, result = prepared(tmp_path, pairs(), "kto", evalFraction=0.25)
    train_rows, held = (load_from_disk(str(path)) for path in (run.workspace.train_rows, run.workspace.eval_rows))
    assert result.dataset is not None
    assert (len(train_rows), len(held)) == (36, 12)
    prompts = [
        {tuple(row["input_ids"][: row["completion_mask"].index(1)]) for row in rows} for rows in (train_rows, held)
    ]
    assert not prompts[0] & prompts[1]
    assert sum(held["desirable"]) == 6


def test_kto_estimates_on_answers_to_other_prompts(tmp_path: Path) -> None:
    run, _ = prepared(tmp_path, verdicts(), "kto")
    rows = load_from_disk(str(run.workspace.train_rows))
    answers = {said(row["input_ids"], row["completion_mask"]) for row in rows}
    for row in rows:
        start = row["other_mask"].index(1)
        assert row["other_ids"][:start] == row["input_ids"][: row["completion_mask"].index(1)]
        assert said(row["other_ids"], row["other_mask"]) in answers


def said(ids: list[int], mask: list[int]) -> tuple[int, ...]:
    return tuple(token for token, carries in zip(ids, mask, strict=True) if carries)


def test_kto_with_one_kind_of_answers_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, [{**row, "label": True} for row in verdicts()], "kto")
    assert message.startswith("training.objective: kto needs answers of both kinds, and those of dataset.train are all")


# -- the whole way ------------------------------------------------------------------------------------------------


def run_to_the_end(root: Path, objective: str, **spec: Any) -> tuple[Run, dict[str, StageResult]]:
    run = job(root, objective, dataset={"evalFraction": 0.5}, **spec)
    return run, {stage.__name__.rpartition(".")[2]: stage.execute(run) for stage in (prepare, train, evaluate, export)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, dict[str, StageResult]]]:
    """One job of each objective, from rows to artefacts; dpo with ONNX besides."""
    onnx = {"exports": [{"name": "adapter", "format": "peft"}, {"name": "cpu", "format": "onnx"}]}
    return {
        "dpo": run_to_the_end(root_of(tmp_path_factory.mktemp("dpo"), pairs()), "dpo", **onnx),
        "orpo": run_to_the_end(root_of(tmp_path_factory.mktemp("orpo"), pairs()), "orpo"),
        "kto": run_to_the_end(root_of(tmp_path_factory.mktemp("kto"), verdicts()), "kto"),
    }


def likelihoods(model: Any, rows: Any) -> np.ndarray:
    """Summed and mean log-likelihood of both answers, [rows, 4], one row at a time from whole logits."""
    found = []
    for row in rows:
        numbers = []
        for ids, mask in ((row["input_ids"], row["completion_mask"]), (row["other_ids"], row["other_mask"])):
            with torch.no_grad():
                log_probs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            said = [float(log_probs[i - 1, ids[i]]) for i in range(1, len(ids)) if mask[i]]
            numbers += [sum(said), sum(said) / len(said)]
        found.append(numbers)
    return np.array(found)


def models(run: Run) -> tuple[Any, Any]:
    from peft import PeftModel

    base, other = (AutoModelForCausalLM.from_pretrained(run.workspace.model).eval() for _ in range(2))
    return base, PeftModel.from_pretrained(other, run.workspace.tuned).eval()


def evaluated(results: dict[str, StageResult]) -> Evaluation:
    assert results["evaluate"].evaluation is not None
    return results["evaluate"].evaluation


def test_dpo_is_judged_by_its_own_loss_and_by_likelihoods_per_token(runs: Any) -> None:
    run, results = runs["dpo"]
    found = evaluated(results)
    rows = load_from_disk(str(run.workspace.eval_rows))
    before, after = (likelihoods(model, rows) for model in models(run))
    margin = (after[:, 0] - before[:, 0]) - (after[:, 2] - before[:, 2])
    assert found.baseline["eval_loss"] == pytest.approx(math.log(2))
    assert found.tuned["eval_loss"] == pytest.approx(np.log1p(np.exp(-0.1 * margin)).mean(), rel=1e-3)
    assert found.tuned["eval_loss"] < 0.6
    assert found.baseline["accuracy"] == (before[:, 1] > before[:, 3]).mean()
    assert found.tuned["accuracy"] == (after[:, 1] > after[:, 3]).mean()
    assert results["train"].metrics.eval_loss == pytest.approx(found.tuned["eval_loss"], rel=1e-3)
    assert "accuracy" in results["evaluate"].message


def test_kto_is_judged_against_the_divergence_and_by_pairs_of_the_two_kinds(runs: Any) -> None:
    run, results = runs["kto"]
    found = evaluated(results)
    rows = load_from_disk(str(run.workspace.eval_rows))
    before, after = (likelihoods(model, rows) for model in models(run))
    divergence = max(0.0, (after[:, 2] - before[:, 2]).mean())
    sign = np.where(rows["desirable"], 1, -1)
    want = 1 - 1 / (1 + np.exp(-sign * 0.1 * (after[:, 0] - before[:, 0] - divergence)))
    assert found.baseline["eval_loss"] == pytest.approx(0.5)
    assert found.tuned["eval_loss"] == pytest.approx(want.mean(), rel=1e-3)
    assert 0 <= found.baseline["accuracy"] <= found.tuned["accuracy"] <= 1


def test_orpo_needs_no_reference_and_improves(runs: Any) -> None:
    run, results = runs["orpo"]
    found = evaluated(results)
    assert not (run.workspace.root / "reference").exists()
    assert found.tuned["eval_loss"] < found.baseline["eval_loss"] - 0.1


def test_the_differences_have_intervals_over_the_rows(runs: Any) -> None:
    record = json.loads((runs["dpo"][0].workspace.root / "results" / "comparison.json").read_text())
    found = {difference["metric"]: difference for difference in record["differences"]}
    assert {*found} == {"eval_loss", "accuracy"}
    assert found["eval_loss"]["low"] <= found["eval_loss"]["difference"] <= found["eval_loss"]["high"] < 0
    assert found["eval_loss"]["verdict"] == "better"


def test_samples_show_both_answers_of_the_row_and_of_the_models(runs: Any) -> None:
    lines = {
        name: (run.workspace.root / "results" / "samples.jsonl").read_text().splitlines()
        for name, (run, _) in runs.items()
    }
    sample = json.loads(lines["dpo"][0])
    assert {*sample} == {"row", "prompt", "baseline", "tuned", "reference", "rejected"}
    assert sample["rejected"] == REJECTED
    assert sample["reference"] in QUESTIONS.values()
    assert len(lines["dpo"]) == 10
    assert {json.loads(line)["desirable"] for line in lines["kto"]} == {True, False}


def test_without_a_baseline_the_loss_still_has_its_reference(runs: Any) -> None:
    run, results = runs["dpo"]
    spec = run.spec.model_copy(update={"evaluation": run.spec.evaluation.model_copy(update={"baseline": False})})
    found = evaluate.execute(replace(run, request=run.request.model_copy(update={"spec": spec}))).evaluation
    assert found is not None
    assert found.baseline == {}
    assert found.tuned == evaluated(results).tuned


def test_artefacts_are_compared_on_the_wanted_answers(runs: Any) -> None:
    for objective, (_, results) in runs.items():
        assert all(artifact.parity.passed for artifact in results["export"].artifacts), objective
    assert [artifact.format for artifact in runs["dpo"][1]["export"].artifacts] == ["peft", "onnx"]
    assert all(row.desirable for row in held_out(runs["kto"][0]))


def test_a_single_answer_is_compared_with_one_to_the_same_prompt_if_there_is_one() -> None:
    def row(prompt: int, *, desirable: bool) -> EvalRow:
        return EvalRow(0, [prompt, 9], [0, 1], [prompt], "", desirable=desirable)

    rows = [row(1, desirable=True), row(2, desirable=False), row(3, desirable=True), row(1, desirable=False)]
    assert opponents(rows) == [3, 2, 3, 0]
    assert opponents([row(1, desirable=True)]) == [0]
