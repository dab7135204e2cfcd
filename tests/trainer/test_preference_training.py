"""Preference training: the losses are those of the papers as TRL computes them, and a run is whole whatever happens."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_trainer.errors import InvalidSpecError, PreemptedError
from finetune_trainer.models.load import load_model
from finetune_trainer.planning.objectives import check_objective
from finetune_trainer.stages.train import execute
from finetune_trainer.training import assembly, reference
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.preference_losses import Likelihoods, judge
from finetune_trainer.training.preference_trainer import ACCURACIES, MARGINS, PreferenceTrainer
from preference_job import PreferenceJob
from trainer_requests import make_spec
from training_job import crash, metrics_of

pytestmark = pytest.mark.trainer
OBJECTIVES = ("dpo", "orpo", "kto")
BETA = 0.3
NO_DROPOUT: dict[str, Any] = {"dropout": 0}


def trainer_of(job: PreferenceJob) -> PreferenceTrainer:
    run = job.run()
    trainer = assembly.build_trainer(run, assembly.checkpoint_store(run), Preemption())[0]
    assert isinstance(trainer, PreferenceTrainer)
    return trainer


def moved(model: Any) -> Any:
    """`model` with other weights, so that it is not its own reference."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def first_step(trainer: PreferenceTrainer, accumulation: int = 1) -> tuple[list[dict[str, Any]], int]:
    batches = iter(trainer.get_train_dataloader())
    return trainer.get_batch_samples(batches, accumulation, torch.device("cpu"))


# -- the losses ---------------------------------------------------------------------------------------------------


def trl_loss(objective: str, policy: Path, base: Path, rows: list[dict[str, Any]]) -> float:
    """Mean loss per row of TRL's own trainer on the same tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(policy)
        return {"dpo": _trl_dpo, "orpo": _trl_orpo, "kto": _trl_kto}[objective](model, base, rows)


def _settings(policy: Any) -> dict[str, Any]:
    settings = {"output_dir": f"{policy.name_or_path}-trl", "use_cpu": True, "bf16": False, "report_to": "none"}
    return settings | {"per_device_train_batch_size": 8, "disable_tqdm": True, "beta": BETA}


def _parts(policy: Any, base: Path, **columns: Any) -> dict[str, Any]:
    """What every trainer of TRL wants to have; its rows are never looked at."""
    rows = Dataset.from_list([{"prompt": "a", **columns}, {"prompt": "a", **columns}])
    return {"model": policy, "processing_class": AutoTokenizer.from_pretrained(base), "train_dataset": rows}


def _split(row: dict[str, Any], ids: str = "input_ids", mask: str = "completion_mask") -> tuple[list[int], list[int]]:
    start = row[mask].index(1)
    return list(row[ids][:start]), list(row[ids][start:])


def _trl_dpo(policy: Any, base: Path, rows: list[dict[str, Any]]) -> float:
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    parts = _parts(policy, base, chosen="b", rejected="c")
    reference = AutoModelForCausalLM.from_pretrained(base)
    trainer = DPOTrainer(ref_model=reference, args=DPOConfig(**_settings(policy)), **parts)
    batch = [
        {"prompt_ids": _split(row)[0], "chosen_ids": _split(row)[1], "rejected_ids": _split(row, *SECOND)[1]}
        for row in rows
    ]
    return float(trainer.compute_loss(trainer.model, DataCollatorForPreference(pad_token_id=0)(batch)))


def _trl_kto(policy: Any, base: Path, rows: list[dict[str, Any]]) -> float:
    from trl import KTOConfig, KTOTrainer
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    parts = _parts(policy, base, completion="b", label=True)
    reference = AutoModelForCausalLM.from_pretrained(base)
    trainer = KTOTrainer(ref_model=reference, args=KTOConfig(**_settings(policy)), **parts)
    batch = [
        {
            "prompt_ids": _split(row)[0],
            "completion_ids": _split(row)[1],
            "KL_completion_ids": _split(row, *SECOND)[1],
            "label": bool(row["desirable"]),
        }
        for row in rows
    ]
    return float(trainer.compute_loss(trainer.model, DataCollatorForUnpairedPreference(pad_token_id=0)(batch)))


def _trl_orpo(policy: Any, base: Path, rows: list[dict[str, Any]]) -> float:
    """TRL averages the likelihood of the chosen answers over the tokens of a batch, the paper over its rows: so one row
    at a time. It counts the prompt too, of which a single token is never predicted."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    from trl.experimental.utils import DPODataCollatorWithPadding

    parts = _parts(policy, base, chosen="b", rejected="c")
    trainer = ORPOTrainer(args=ORPOConfig(**_settings(policy)), **parts)
    collate = DPODataCollatorWithPadding(pad_token_id=0)
    losses = []
    for row in rows:
        prompt, chosen = _split(row)
        features: dict[str, Any] = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for name, answer in (("chosen", chosen), ("rejected", _split(row, *SECOND)[1])):
            features |= {
                f"{name}_input_ids": prompt + answer,
                f"{name}_attention_mask": [1] * len(prompt + answer),
                f"{name}_labels": [-100] * len(prompt) + answer,
            }
        losses.append(float(trainer.compute_loss(trainer.model, collate([features]))))
    return sum(losses) / len(losses)


SECOND = ("other_ids", "other_mask")


def with_prompts_of_one_token(job: PreferenceJob) -> None:
    from datasets import load_from_disk

    rows = []
    for row in load_from_disk(str(job.workspace.train_rows)):
        start = row["completion_mask"].index(1) - 1
        rows.append({name: value[start:] if isinstance(value, list) else value for name, value in row.items()})
    aside = job.folder / "short"
    Dataset.from_list(rows).save_to_disk(str(aside))
    job.workspace.train_rows.rename(job.folder / "long")
    aside.rename(job.workspace.train_rows)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_of_a_batch_is_that_of_trl(tmp_path: Path, objective: str) -> None:
    sizes = {"batch_size": 8, "micro_batch_size": 8, "gradient_accumulation_steps": 1, "eval_every": 0}
    job = PreferenceJob(
        tmp_path / "job",
        objective=objective,
        rows=8,
        eval_rows=0,
        training=sizes,
        method={"type": "full"},
        spec={"training": {"beta": BETA}},
    )
    if objective == "orpo":
        with_prompts_of_one_token(job)
    trainer = trainer_of(job)
    policy = moved(trainer.model)
    [batch], count = first_step(trainer)
    ours = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count).item()
    rows = [*Dataset.load_from_disk(str(job.workspace.train_rows))]
    policy.save_pretrained(tmp_path / "policy")
    theirs = trl_loss(objective, tmp_path / "policy", job.workspace.model, rows)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert abs(ours - {"dpo": math.log(2), "kto": 0.5, "orpo": 0.0}[objective]) > 1e-3


def test_the_odds_of_an_answer_that_is_nearly_certain_have_a_gradient() -> None:
    chosen = torch.tensor([-1e-9, -0.2, -30.0], requires_grad=True)
    rejected = torch.tensor([-30.0, -0.2, -1e-9], requires_grad=True)
    ones = torch.ones(3)
    losses = judge("orpo", Likelihoods(chosen, rejected, ones, ones), 0.1).losses
    losses.sum().backward()
    assert bool(torch.isfinite(losses).all())
    assert bool(torch.isfinite(chosen.grad).all())
    assert bool(torch.isfinite(rejected.grad).all())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_do_not_depend_on_how_a_batch_of_ragged_rows_is_cut(tmp_path: Path, objective: str) -> None:
    found = {}
    for micro, accumulation in ((8, 1), (1, 8), (2, 4)):
        cut = {"batch_size": 8, "micro_batch_size": micro, "gradient_accumulation_steps": accumulation}
        job = PreferenceJob(
            tmp_path / str(micro), objective=objective, rows=8, eval_rows=0, training=cut, spec={"method": NO_DROPOUT}
        )
        trainer = trainer_of(job)
        moved(trainer.model)
        batches, count = first_step(trainer, accumulation)
        for batch in batches:
            trainer.training_step(trainer.model, batch, count)
        found[micro] = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    for micro in (1, 2):
        for name, gradient in found[8].items():
            torch.testing.assert_close(found[micro][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert max(gradient.abs().max() for gradient in found[8].values()) > 1e-3


# -- a run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PreferenceJob, Any, dict[int, float]]]:
    """An uninterrupted run of each objective; full tuning for dpo, whose reference is then only on disk."""
    found = {}
    for objective in OBJECTIVES:
        job = PreferenceJob(tmp_path_factory.mktemp(objective), **options(objective))
        run = job.run()
        result = execute(run)
        found[objective] = (job, result, run.progress.losses())
    return found


def options(objective: str) -> dict[str, Any]:
    full = {"method": {"type": "full"}, "training": {"learning_rate": 1e-3}} if objective == "dpo" else {}
    return {"objective": objective, **full}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_learns_and_tells_its_rewards(whole: Any, objective: str) -> None:
    _, result, losses = whole[objective]
    metrics = metrics_of(result)
    assert losses[1] == pytest.approx({"dpo": math.log(2), "kto": 0.5, "orpo": losses[1]}[objective], abs=1e-3)
    assert losses[8] < losses[1] - 0.05
    assert None not in (metrics.eval_loss, metrics.reward_margin, metrics.reward_accuracy)
    if objective != "orpo":
        assert (metrics.reward_margin or 0) > 0.1
        assert (metrics.reward_accuracy or 0) > 0.5


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_resumed_run_reads_its_reference_and_ends_bit_for_bit_alike(
    tmp_path: Path, whole: Any, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, want, want_losses = whole[objective]
    job = PreferenceJob(tmp_path, **options(objective))
    crash(job, at=5)

    def computed_again(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("the reference was computed again")

    monkeypatch.setattr(reference, "row_losses", computed_again)
    run = job.run(attempt=2)
    result = execute(run)
    assert "went on from the checkpoint of step 4" in result.message
    assert run.progress.losses() == want_losses
    assert [point.eval_loss for point in result.history] == [point.eval_loss for point in want.history]


def log_likelihood(model: Any, ids: list[int], mask: list[int]) -> float:
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return sum(float(log_probs[i - 1, ids[i]]) for i in range(1, len(ids)) if mask[i])


@pytest.mark.parametrize(
    "method", [{"initialization": "pissa"}, {"type": "qlora", "initialization": "loftq"}], ids=["pissa", "loftq"]
)
def test_the_reference_is_the_untouched_base_whatever_the_adapter_starts_from(
    tmp_path: Path, method: dict[str, Any]
) -> None:
    kind = {"type": method.get("type", "lora")}
    job = PreferenceJob(tmp_path, rows=3, eval_rows=0, method=kind, spec={"method": {"rank": 4, **method}})
    trainer = trainer_of(job)
    rows = Dataset.load_from_disk(str(job.workspace.train_rows))
    base = (
        assembly.load_base(job.run()) if kind["type"] == "qlora" else load_model(job.workspace.model, "fp32", "eager")
    )
    for row, known in zip(rows, trainer.train_dataset["reference_likelihoods"], strict=True):
        want = [log_likelihood(base, row["input_ids"], row["completion_mask"])]
        want.append(log_likelihood(base, row["other_ids"], row["other_mask"]))
        assert np.asarray(known) == pytest.approx(want, abs=1e-3)


def test_a_damaged_reference_is_computed_again(tmp_path: Path) -> None:
    job = PreferenceJob(tmp_path, rows=4, eval_rows=0)
    want = trainer_of(job).train_dataset["reference_likelihoods"]
    [file] = (tmp_path / reference.FOLDER).iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert [*map(list, trainer_of(job).train_dataset["reference_likelihoods"])] == [*map(list, want)]


def test_an_interrupted_reference_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "ROWS_AT_ONCE", 2)
    job = PreferenceJob(tmp_path, rows=6, eval_rows=0)
    run, asked = job.run(), Preemption()
    rows = assembly.load_preferences(job.workspace.train_rows)
    base = load_model(job.workspace.model, "fp32", "sdpa")
    counted: list[int] = []
    computed = reference._likelihoods

    def counting(*arguments: Any) -> np.ndarray:
        counted.append(1)
        if len(counted) == 2:
            asked.requested = True
        return computed(*arguments)

    monkeypatch.setattr(reference, "_likelihoods", counting)
    with pytest.raises(PreemptedError, match="the reference of 4 of 6 rows is kept"):
        reference.reference_likelihoods(run, base, rows, job.workspace.train_rows, asked)
    found = reference.reference_likelihoods(run, base, rows, job.workspace.train_rows, Preemption())
    assert len(counted) == 3
    assert not np.isnan(found).any()


def test_an_evaluation_draws_no_random_number_and_is_that_of_the_rows(tmp_path: Path) -> None:
    job = PreferenceJob(tmp_path, objective="kto", eval_rows=6)
    trainer = trainer_of(job)
    before = torch.get_rng_state()
    metrics = trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), before)
    assert metrics["eval_loss"] == pytest.approx(0.5, abs=1e-5)
    assert {f"eval_{MARGINS}", f"eval_{ACCURACIES}"} <= {*metrics}


@pytest.mark.parametrize(
    ("parts", "want"),
    [
        ({"dataset": {"packing": True}}, "dataset.packing: true does not go with training.objective: dpo"),
        ({"training": {"earlyStopping": {"metric": "perplexity"}}}, "training.earlyStopping.metric: perplexity"),
    ],
)
def test_what_does_not_go_with_preferences_is_refused_by_name(parts: dict[str, Any], want: str) -> None:
    training = {"objective": "dpo", **parts.get("training", {})}
    dataset = {"train": {"source": "pvc://d/t.jsonl"}, **parts.get("dataset", {})}
    with pytest.raises(InvalidSpecError, match=want):
        check_objective(make_spec(task="preference", training=training, dataset=dataset))
