"""What a batch is and what is learned from it: labels, padding, packing, accumulation, order."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from finetune_trainer.models.load import load_model, load_tokenizer
from finetune_trainer.stages.train import execute
from finetune_trainer.training import assembly
from finetune_trainer.training.loss import supervised_loss
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.rows import IGNORED, RowCollator, load_rows, packed
from finetune_trainer.training.stage_trainer import StageTrainer
from tiny_models import build_tiny_model
from training_job import TrainingJob, ragged_rows

pytestmark = pytest.mark.trainer
FAMILIES = ("llama", "qwen3", "phi3", "gemma3")


def trainer_of(job: TrainingJob) -> StageTrainer:
    run = job.run()
    return assembly.build_trainer(run, assembly.checkpoint_store(run), Preemption())[0]


def pad_with_the_end_token(model: Path) -> None:
    """Give the model in `model`, a link to a shared one, a tokenizer of its own that pads as many models do."""
    shared = model.resolve()
    model.unlink()
    shutil.copytree(shared, model)
    tokenizer = load_tokenizer(model)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(model)


@pytest.mark.parametrize("pads_with_end", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_exactly_the_completion_mask_and_the_end_token_is_learned(
    tmp_path: Path, family: str, pads_with_end: bool
) -> None:
    job = TrainingJob(tmp_path, family)
    if pads_with_end:
        pad_with_the_end_token(job.workspace.model)
    tokenizer = load_tokenizer(job.workspace.model)
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) is pads_with_end
    wanted = {tuple(row["input_ids"]): row["completion_mask"] for row in load_rows(job.workspace.train_rows)}
    seen = 0
    for batch in trainer_of(job).get_train_dataloader():
        for ids, labels, attention in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            length = int(attention.sum())
            row = tuple(ids[:length].tolist())
            want_labels = [token if bit else IGNORED for token, bit in zip(row, wanted[row], strict=True)]
            assert labels[:length].tolist() == want_labels
            assert labels[length - 1] == tokenizer.eos_token_id
            assert labels[length:].tolist() == [IGNORED] * (len(ids) - length)
            assert attention.tolist() == [1] * length + [0] * (len(ids) - length)
            seen += 1
    assert seen == 20


def test_the_columns_of_evaluation_are_left_alone(tmp_path: Path) -> None:
    trainer = trainer_of(TrainingJob(tmp_path))
    batch = next(iter(trainer._eval_batches()))
    assert {*batch} == {"input_ids", "labels", "attention_mask", "real_tokens"}


def test_an_evaluation_keeps_two_numbers_of_each_batch_however_many_rows_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, kept = StageTrainer._evaluated, []

    def spy(self: StageTrainer, batch: dict[str, Any]) -> torch.Tensor:
        kept.append(evaluated(self, batch))
        return kept[-1]

    monkeypatch.setattr(StageTrainer, "_evaluated", spy)
    trainer_of(TrainingJob(tmp_path, eval_rows=60)).evaluate()
    assert len(kept) > 5
    assert {statistics.untyped_storage().nbytes() for statistics in kept} == {2 * 8}
    assert not any(statistics.requires_grad for statistics in kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loss_is_the_reference_loss_in_value_and_gradient(tmp_path: Path, family: str, method: str) -> None:
    trainer = trainer_of(TrainingJob(tmp_path, family, method={"type": method}, spec={"method": {"dropout": 0}}))
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("real_tokens")
    model = trainer.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    labels = batch["labels"]
    others = {name: value for name, value in batch.items() if name != "labels"}
    ours = supervised_loss(model, others, labels)
    logits = model(**others, use_cache=False).logits
    want = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    tiled = -model(**batch, fused_lm_head=True).log_probs.sum()
    assert ours.item() == pytest.approx(want.item(), rel=1e-6)
    assert tiled.item() == pytest.approx(want.item(), rel=1e-5)
    wanted = torch.autograd.grad(want, parameters, allow_unused=True)
    for got in (ours, tiled):
        for a, b in zip(torch.autograd.grad(got, parameters, allow_unused=True), wanted, strict=True):
            if b is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_batch_without_any_label_has_a_loss_of_zero_and_a_gradient(tmp_path: Path) -> None:
    trainer = trainer_of(TrainingJob(tmp_path))
    ids = torch.tensor([[1, 2, 3]])
    batch = {"input_ids": ids, "labels": torch.full_like(ids, IGNORED), "attention_mask": torch.ones_like(ids)}
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_in_bf16_gives_finite_logits_and_gradients(family: str, side: str) -> None:
    model_path = build_tiny_model(family)
    ids = torch.tensor([[7, 9, 11, 13, 15, 17], [7, 9, 11, 0, 0, 0]])
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    if side == "left":
        ids[1], mask[1] = ids[1].flip(0), mask[1].flip(0)
    # Gemma 2 caps its attention scores, which sdpa cannot.
    for attention in ("eager",) if family == "gemma2" else ("eager", "sdpa"):
        model = load_model(model_path, "bf16", attention).train()
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits[mask.bool()].float().logsumexp(-1).sum().backward()
        assert bool(torch.isfinite(logits).all())
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def gradients_of_one_step(
    folder: Path, family: str, micro: int, accumulation: int, packing: bool, loss: str = "default"
) -> dict[str, torch.Tensor]:
    job = TrainingJob(
        folder,
        family,
        rows=24 if packing else 8,
        eval_rows=0,
        training={
            "batch_size": 8,
            "micro_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
            "total_steps": 2,
            "packing": packing,
            "max_length": 40,
        },
        spec={"method": {"dropout": 0}, "training": {"maxGradNorm": 0, "loss": {"type": loss}}},
    )
    caught: dict[str, torch.Tensor] = {}
    original = StageTrainer._get_grad_norm

    def spy(self: StageTrainer, model: Any, grad_norm: Any = None) -> Any:
        if not caught:
            caught.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return original(self, model, grad_norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTrainer, "_get_grad_norm", spy)
        execute(job.run())
    return caught


@pytest.mark.parametrize(
    ("family", "packing", "loss"),
    [
        *((family, packing, "default") for family in FAMILIES for packing in (False, True)),
        ("llama", False, "class-weighted"),
    ],
)
def test_gradients_do_not_depend_on_how_a_batch_of_ragged_rows_is_cut(
    tmp_path: Path, family: str, packing: bool, loss: str
) -> None:
    whole = gradients_of_one_step(tmp_path / "8x1", family, 8, 1, packing, loss)
    for micro, accumulation in ((1, 8), (2, 4)):
        cut = gradients_of_one_step(tmp_path / f"{micro}x{accumulation}", family, micro, accumulation, packing, loss)
        assert [*cut] == [*whole]
        for name, gradient in whole.items():
            torch.testing.assert_close(cut[name], gradient, rtol=1e-5, atol=1e-5, msg=name)
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_do_not_see_each_other(tmp_path: Path, family: str) -> None:
    model_path = build_tiny_model(family)
    rows = ragged_rows(model_path, 9, seed=1)
    sequences = packed(Dataset.from_list(rows), 64, tmp_path / "packed.arrow")
    assert len(sequences) < len(rows)
    model = load_model(model_path, "fp32", "sdpa")
    batch = RowCollator(0)([*sequences])
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    for i, sequence in enumerate(sequences):
        start = 0
        for length in sequence["seq_lengths"]:
            alone = model(input_ids=batch["input_ids"][i : i + 1, start : start + length], use_cache=False).logits[0]
            torch.testing.assert_close(logits[i, start : start + length], alone, rtol=1e-4, atol=1e-5)
            assert batch["labels"][i, start] == IGNORED
            start += length
    counted = sum(sum(row["completion_mask"][1:]) for row in rows)
    assert int((batch["labels"] != IGNORED).sum()) == counted


def test_a_packed_run_learns_on_fewer_longer_sequences(tmp_path: Path) -> None:
    job = TrainingJob(tmp_path, rows=40, training={"packing": True, "max_length": 48})
    run = job.run()
    execute(run)
    losses = run.progress.losses()
    assert losses[8] < losses[1] - 0.1


def test_the_evaluation_loss_is_the_mean_over_tokens_and_not_over_batches(tmp_path: Path) -> None:
    losses = []
    for micro, accumulation in ((1, 4), (4, 1)):
        job = TrainingJob(
            tmp_path / str(micro), training={"micro_batch_size": micro, "gradient_accumulation_steps": accumulation}
        )
        losses.append(trainer_of(job).evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    model = load_model(job.workspace.model, "fp32", "sdpa")
    total = count = 0.0
    for row in load_rows(job.workspace.eval_rows):
        ids, mask = torch.tensor([row["input_ids"]]), torch.tensor(row["completion_mask"])[1:].bool()
        log_probs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        total, count = total - log_probs[mask].sum().item(), count + mask.sum().item()
    assert losses[0] == pytest.approx(total / count, rel=1e-5)


def test_an_evaluation_draws_no_random_number(tmp_path: Path) -> None:
    trainer = trainer_of(TrainingJob(tmp_path))
    before = torch.get_rng_state()
    trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), before)
