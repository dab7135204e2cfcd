"""Stage evaluate on tiny models: real weights, rows and generation."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.status import Evaluation, Stage
from finetune_trainer.errors import GateUnmetError, InvalidDataError
from finetune_trainer.evaluating import losses
from finetune_trainer.evaluating.generating import answer_limit, greedy_answers, greedy_ids, stop_ids
from finetune_trainer.evaluating.losses import row_losses
from finetune_trainer.evaluating.rows import EvalRow, load_rows
from finetune_trainer.run import Run
from finetune_trainer.stages import evaluate
from tiny_models import FAMILIES, build_tiny_model
from tuned_runs import QUESTIONS, chat_rows, keep_rows, make_run, make_tuned_run, progress_of, tune

pytestmark = pytest.mark.trainer
MANY = {f"{question} ({number})": answer for number in range(2) for question, answer in QUESTIONS.items()}


@pytest.fixture(scope="module")
def tuned_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_tuned_run(tmp_path_factory.mktemp("evaluate"), steps=60, stage=Stage.EVALUATE)


@pytest.fixture(scope="module")
def llama() -> Any:
    return AutoModelForCausalLM.from_pretrained(build_tiny_model("llama"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(build_tiny_model("llama"))


def eval_rows(family: str = "llama") -> list[EvalRow]:
    return [EvalRow(i, **row) for i, row in enumerate(chat_rows(build_tiny_model(family)))]


def evaluated(run: Run) -> Evaluation:
    evaluation = evaluate.execute(run).evaluation
    assert evaluation is not None
    return evaluation


def plain_loss(model: Any, rows: list[EvalRow]) -> float:
    """Nats per supervised token, computed one row at a time from whole logits."""
    total = count = 0.0
    for row in rows:
        ids = torch.tensor([row.input_ids])
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        total -= sum(logprobs[i - 1, row.input_ids[i]].item() for i in row.supervised)
        count += len(row.supervised)
    return total / count


def with_evaluation(run: Run, **evaluation: Any) -> Run:
    document = run.spec.to_json() | {"evaluation": evaluation}
    spec = type(run.spec).model_validate(document)
    return Run(run.request.model_copy(update={"spec": spec}), run.workspace, run.claim_path, type(run.progress)())


def test_the_tuned_model_is_compared_with_the_base_on_the_same_rows(tuned_run: Run) -> None:
    result = evaluate.execute(tuned_run)
    evaluation = evaluated(tuned_run)
    base = AutoModelForCausalLM.from_pretrained(tuned_run.workspace.model, dtype=torch.float32).eval()
    assert evaluation.rows == len(QUESTIONS)
    assert evaluation.baseline["eval_loss"] == pytest.approx(plain_loss(base, eval_rows()), rel=1e-4)
    assert evaluation.tuned["perplexity"] == pytest.approx(math.exp(evaluation.tuned["eval_loss"]))
    assert evaluation.tuned["exact-match"] > 0.5 > evaluation.baseline["exact-match"]
    assert set(evaluation.tuned) == set(evaluation.baseline) == set(tuned_run.plan.metrics)
    assert "eval_loss" in result.message


def test_progress_is_told_in_rows_and_ends_when_all_have_been_through_both_models(tuned_run: Run) -> None:
    run = with_evaluation(tuned_run)
    evaluate.execute(run)
    rows = len(QUESTIONS)
    steps = progress_of(run).steps
    assert steps == sorted(steps)
    assert steps[0] == (0, rows)
    assert steps[-1] == (rows, rows)
    assert (rows // 2, rows) in steps[:-1]


def test_samples_show_prompt_both_answers_and_the_reference(tuned_run: Run) -> None:
    evaluate.execute(tuned_run)
    lines = (tuned_run.workspace.root / "results" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [s["reference"] for s in samples] == list(QUESTIONS.values())
    assert set(samples[0]) == {"row", "prompt", "baseline", "tuned", "reference"}
    assert "What is two plus three?" in samples[0]["prompt"]
    assert any(s["tuned"].strip() == s["reference"] != s["baseline"].strip() for s in samples)


def test_enough_rows_give_a_confidence_interval_in_message_and_record(tmp_path: Path, tuned_run: Run) -> None:
    run = make_run(tmp_path, build_tiny_model("llama"), stage=Stage.EVALUATE)
    run.workspace.tuned.symlink_to(tuned_run.workspace.tuned)
    keep_rows(run.workspace.eval_rows, chat_rows(run.workspace.model, MANY))
    message = evaluate.execute(run).message
    record = json.loads((run.workspace.root / "results" / "comparison.json").read_text())
    (found,) = [d for d in record["differences"] if d["metric"] == "eval_loss"]
    assert found["low"] < found["difference"] < found["high"] < 0
    assert found["verdict"] == "better"
    assert "95% interval" in message
    assert "better" in message


def test_an_unmet_gate_fails_the_stage_and_carries_the_numbers(tuned_run: Run) -> None:
    gates = [{"metric": "exact-match", "atLeast": 0.1}, {"metric": "eval_loss", "improvesBaselineBy": 99}]
    with pytest.raises(GateUnmetError, match="eval_loss must be at least 99 better than the baseline") as caught:
        evaluate.execute(with_evaluation(tuned_run, gates=gates))
    evaluation = caught.value.evaluation
    assert evaluation is not None
    assert [gate.passed for gate in evaluation.gates] == [True, False]
    assert evaluation.tuned["eval_loss"] > 0


def test_met_gates_are_reported(tuned_run: Run) -> None:
    gates = [{"metric": "eval_loss", "improvesBaselineBy": 0.1}, {"metric": "exact-match", "atLeast": 0.1}]
    found = evaluated(with_evaluation(tuned_run, gates=gates))
    assert [gate.passed for gate in found.gates] == [True, True]


def test_without_baseline_only_the_tuned_model_is_measured(tuned_run: Run) -> None:
    result = evaluate.execute(with_evaluation(tuned_run, baseline=False))
    assert result.evaluation is not None
    assert result.evaluation.baseline == {}
    assert result.evaluation.tuned["eval_loss"] > 0
    assert "against" not in result.message


def test_at_most_max_rows_are_judged(tuned_run: Run) -> None:
    assert evaluated(with_evaluation(tuned_run, maxRows=3, baseline=False)).rows == 3


def test_after_full_tuning_the_baseline_is_the_model_in_the_workspace(tmp_path: Path) -> None:
    run = make_tuned_run(tmp_path, "qwen2", steps=40, method="full", stage=Stage.EVALUATE)
    evaluation = evaluated(run)
    base = AutoModelForCausalLM.from_pretrained(run.workspace.model, dtype=torch.float32).eval()
    assert evaluation.baseline["eval_loss"] == pytest.approx(plain_loss(base, eval_rows("qwen2")), rel=1e-4)
    assert evaluation.tuned["eval_loss"] < evaluation.baseline["eval_loss"] - 1


def test_without_held_out_rows_the_stage_says_what_makes_some(tmp_path: Path) -> None:
    run = make_run(tmp_path, build_tiny_model("llama"), stage=Stage.EVALUATE)
    with pytest.raises(InvalidDataError, match=r"dataset\.evalFraction above 0"):
        evaluate.execute(run)


def test_rows_of_plain_text_are_judged_on_loss_alone(tmp_path: Path, tuned_run: Run) -> None:
    run = make_run(tmp_path, build_tiny_model("llama"), stage=Stage.EVALUATE)
    run.workspace.tuned.symlink_to(tuned_run.workspace.tuned)
    rows = [{**row, "prompt_ids": [], "reference": ""} for row in chat_rows(run.workspace.model)]
    keep_rows(run.workspace.eval_rows, rows)
    assert set(evaluated(run).tuned) == {"eval_loss", "perplexity"}


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3", "qwen3"])
def test_batching_changes_no_loss(family: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_tiny_model(family), dtype=torch.float32).eval()
    rows = eval_rows(family)
    alone = [row_losses(model, [row])[0].tolist() for row in rows]
    assert row_losses(model, rows).tolist() == [pytest.approx(want, rel=1e-5) for want in alone]


def test_logits_are_bounded_and_only_made_for_supervised_positions(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, shapes = eval_rows(), []
    want = row_losses(llama, rows)
    hook = llama.lm_head.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape)))
    monkeypatch.setattr(losses, "LOGITS_BYTES", 2 * 4 * len(rows) * 480)
    got = row_losses(llama, rows)
    hook.remove()
    assert got == pytest.approx(want, rel=1e-5)
    supervised = {i - 1 for row in rows for i in row.supervised}
    assert all(shape[1] <= 2 for shape in shapes)
    assert sum(shape[1] for shape in shapes) == len(supervised) < max(len(row.input_ids) for row in rows)


def test_answers_in_a_batch_are_those_given_alone(tuned_run: Run, llama: Any, tokenizer: Any) -> None:
    rows = eval_rows()
    assert len({len(row.prompt_ids) for row in rows}) > 1
    stops = stop_ids(llama, tokenizer, rows)
    together = greedy_answers(llama, tokenizer, rows, limit=12, stops=stops)
    alone = [greedy_answers(llama, tokenizer, [row], limit=12, stops=stops)[0] for row in rows]
    assert together == alone


def test_generation_ignores_the_models_own_settings_and_leaves_them(llama: Any, tokenizer: Any) -> None:
    rows = eval_rows()[:2]
    prompts, stops = [row.prompt_ids for row in rows], stop_ids(llama, tokenizer, rows)
    want = greedy_ids(llama, prompts, limit=10, stops=stops)
    llama.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=9.0, max_length=3)
    try:
        assert greedy_ids(llama, prompts, limit=10, stops=stops) == want
        assert llama.generation_config.repetition_penalty == 5.0
    finally:
        llama.generation_config.update(repetition_penalty=None, do_sample=None, temperature=None, max_length=None)


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3", "qwen3"])
def test_the_end_of_turn_that_rows_teach_ends_an_answer_even_if_no_configuration_names_it(family: str) -> None:
    path = build_tiny_model(family)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    got = stop_ids(model, tokenizer, eval_rows(family))
    assert set(got) == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(FAMILIES[family].end_of_turn)}


def test_no_more_tokens_are_generated_than_the_longest_reference_makes_sense_of(tokenizer: Any) -> None:
    rows = eval_rows()
    longest = max(len(tokenizer(row.reference, add_special_tokens=False)["input_ids"]) for row in rows)
    assert longest < answer_limit(rows, tokenizer, 128) < 128
    assert answer_limit(rows, tokenizer, 3) == 3


def test_the_same_evaluation_twice_gives_the_same_result(tuned_run: Run) -> None:
    assert evaluate.execute(tuned_run) == evaluate.execute(tuned_run)


def test_an_evaluation_in_bf16_follows_the_plan(tmp_path: Path) -> None:
    run = make_tuned_run(tmp_path, steps=60, stage=Stage.EVALUATE)
    plan = run.plan.model_copy(update={"training": run.plan.training.model_copy(update={"precision": "bf16"})})
    run.workspace.plan.write_text(plan.model_dump_json(by_alias=True, exclude_none=True))
    again = Run(run.request, run.workspace, run.claim_path, run.progress)
    exact, rounded = evaluated(run), evaluated(again)
    assert rounded.tuned["eval_loss"] != exact.tuned["eval_loss"]
    assert rounded.tuned["eval_loss"] == pytest.approx(exact.tuned["eval_loss"], rel=0.05)


def test_held_out_rows_are_read_as_prepare_wrote_them(tuned_run: Run) -> None:
    rows = load_rows(tuned_run.workspace.eval_rows, 100, 0)
    assert [row.reference for row in rows] == list(QUESTIONS.values())


def test_an_adapter_that_changes_nothing_is_told_from_the_base_by_nothing(tmp_path: Path) -> None:
    model = build_tiny_model("llama")
    run = make_run(tmp_path, model, stage=Stage.EVALUATE)
    rows = chat_rows(model, MANY)
    keep_rows(run.workspace.eval_rows, rows)
    tune(run, rows, init_lora_weights=True)
    evaluation = evaluated(run)
    assert evaluation.tuned == evaluation.baseline
    record = json.loads((run.workspace.root / "results" / "comparison.json").read_text())
    assert {d["verdict"] for d in record["differences"]} == {"undecided"}
