"""Stage train for heads of classes: every method, every cut of a batch, any padding, and resuming."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedModel

from finetune_api.status import Stage
from finetune_trainer.errors import LearnedNothingError
from finetune_trainer.models.heads import Head, class_logits, head_module, head_of, start_head
from finetune_trainer.models.load import load_model, load_tokenizer, load_tuned
from finetune_trainer.run import Run
from finetune_trainer.stages import prepare, train
from finetune_trainer.training import assembly
from finetune_trainer.training.head_trainer import HeadCollator, HeadTrainer
from finetune_trainer.training.preemption import Preemption
from finetune_trainer.training.rows import IGNORED, load_rows
from finetune_trainer.training.stage_trainer import StageTrainer
from head_jobs import head_run, make_root, trained
from tiny_models import build_tiny_model
from training_job import CrashError, CrashingProgress

pytestmark = pytest.mark.trainer
TEXT, TAGS = "classification", "token-classification"
PLAIN = {TEXT: AutoModelForSequenceClassification, TAGS: AutoModelForTokenClassification}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("heads"))


def trainer_of(run: Run) -> HeadTrainer:
    trainer, _ = assembly.build_trainer(run, assembly.checkpoint_store(run), Preemption())
    assert isinstance(trainer, HeadTrainer)
    return trainer


def prepared(root: Path, task: str, workspace: str, **parts: Any) -> Run:
    prepare.execute(head_run(root, Stage.PREPARE, task, workspace, **parts))
    return head_run(root, Stage.TRAIN, task, workspace, **parts)


def singles(run: Run) -> list[dict[str, torch.Tensor]]:
    collate = HeadCollator(0)
    return [collate([row]) for row in load_rows(run.workspace.train_rows).with_format("numpy")]


def told_logits(model: PreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        return class_logits(model, batch["input_ids"], batch["attention_mask"], batch["labels"] != IGNORED)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gemma3"])
def test_padding_changes_no_logits_whatever_token_it_is(family: str) -> None:
    path = build_tiny_model(family)
    tokenizer = load_tokenizer(path)
    texts = ["Oil fell.", f"News: crude oil prices fell{tokenizer.eos_token} in Vienna", "Paris"]
    rows = []
    for number, text in enumerate(texts):
        ids = tokenizer(text)["input_ids"]
        rows.append({"input_ids": ids, "completion_mask": [0] * (len(ids) - 1) + [1], "classes": [number]})
    for pad in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        head = Head(TEXT, ("a", "b", "c"), pad)
        model = load_model(path, "fp32", "sdpa", head=head, new_head=True)
        start_head(model, 1)
        batch = HeadCollator(pad)(rows)
        together = told_logits(model, batch)
        alone = torch.cat([told_logits(model, HeadCollator(pad)([row])) for row in rows])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        own = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        torch.testing.assert_close(own, together, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone[0], alone[2], atol=1e-3)


def gradients_of_the_first_step(run: Run) -> dict[str, torch.Tensor]:
    caught: dict[str, torch.Tensor] = {}
    original = StageTrainer._get_grad_norm

    def spy(self: StageTrainer, model: Any, grad_norm: Any = None) -> Any:
        caught.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return original(self, model, grad_norm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageTrainer, "_get_grad_norm", spy)
        train.execute(run)
    return caught


@pytest.mark.parametrize(("task", "loss"), [(TEXT, "class-weighted"), (TAGS, "default")])
def test_gradients_do_not_depend_on_how_a_batch_of_ragged_rows_is_cut(root: Path, task: str, loss: str) -> None:
    found = []
    for micro in (8, 1, 2):
        training = {"maxSteps": 1, "microBatchSize": micro, "maxGradNorm": 0, "loss": {"type": loss}}
        parts = {"training": training, "method": {"dropout": 0}}
        run = prepared(root, task, f"cut-{task}-{micro}", **parts)
        assert run.plan.training.gradient_accumulation_steps == 8 // micro
        found.append(gradients_of_the_first_step(run))
    whole, *cuts = found
    for cut in cuts:
        assert [*cut] == [*whole]
        for name, gradient in whole.items():
            torch.testing.assert_close(cut[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert any("score" in name and gradient.abs().max() > 1e-3 for name, gradient in whole.items())


METHODS = {
    "qlora": (TAGS, {"type": "qlora", "initialization": "loftq"}),
    "dora": (TEXT, {"type": "dora"}),
    "ia3": (TAGS, {"type": "adapter"}),
    "pissa": (TEXT, {"type": "lora", "initialization": "pissa"}),
}


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_is_saved_with_its_head_and_loads_with_plain_peft(root: Path, name: str) -> None:
    task, method = METHODS[name]
    run = trained(root, task, name, method=method, training={"maxSteps": 4})
    losses = run.progress.losses()
    assert losses[4] < losses[1] - 0.05
    tensors = load_file(run.workspace.tuned / "adapter_model.safetensors")
    heads = {key: tensor for key, tensor in tensors.items() if ".score." in key}
    assert {key.rpartition(".")[2] for key in heads} == ({"weight"} if task == TEXT else {"weight", "bias"})
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    config = json.loads((run.workspace.tuned / "adapter_config.json").read_text())
    assert sorted(config["modules_to_save"]) == ["classifier", "score"]
    head = head_of(run)
    assert head is not None
    base = PLAIN[task].from_pretrained(
        run.workspace.model, num_labels=len(head.classes), pad_token_id=head.pad_token_id, dtype=torch.float32
    )
    plain = PeftModel.from_pretrained(base, run.workspace.tuned).eval()
    ours = load_tuned(run, "fp32")
    for batch in singles(run)[:3]:
        want = plain(input_ids=batch["input_ids"]).logits
        want = want if task == TEXT else want[batch["labels"] != IGNORED]
        torch.testing.assert_close(told_logits(ours, batch), want, rtol=1e-4, atol=1e-5)


def assert_plain_transformers_loads(run: Run, task: str) -> None:
    """A fully tuned model is saved with its head and the names of its classes."""
    head = head_of(run)
    assert head is not None
    plain = PLAIN[task].from_pretrained(run.workspace.tuned, dtype=torch.float32).eval()
    assert [*plain.config.id2label.values()] == [*head.classes]
    assert plain.config.label2id[head.classes[1]] == 1
    for batch in singles(run)[:3]:
        want = plain(input_ids=batch["input_ids"]).logits
        want = want if task == TEXT else want[batch["labels"] != IGNORED]
        torch.testing.assert_close(told_logits(load_tuned(run), batch), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("task", "method"), [(TEXT, "lora"), (TAGS, "full")])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(root: Path, task: str, method: str) -> None:
    parts: dict[str, Any] = {"method": {"type": method}, "training": {"maxSteps": 4, "checkpointEvery": 2}}
    whole = trained(root, task, f"whole-{task}-{method}", **parts)
    run = prepared(root, task, f"cut-off-{task}-{method}", **parts)
    progress = CrashingProgress()
    progress.at = 3
    with pytest.raises(CrashError):
        train.execute(Run(run.request, run.workspace, run.claim_path, progress, environment={}))
    train.execute(run)
    losses = run.progress.losses()
    assert {step: whole.progress.losses()[step] for step in losses} == losses
    if method == "full":
        assert_plain_transformers_loads(whole, task)
    names = [path.name for path in whole.workspace.tuned.glob("*.safetensors")]
    for name in names:
        again = load_file(run.workspace.tuned / name)
        for key, tensor in load_file(whole.workspace.tuned / name).items():
            assert torch.equal(tensor, again[key]), key
    assert names


def test_the_loss_acts_on_classes_and_evaluation_stays_cross_entropy(root: Path) -> None:
    run = prepared(root, TAGS, "losses", training={"loss": {"type": "class-weighted"}})
    trainer = trainer_of(run)
    rows = load_rows(run.workspace.train_rows)
    want_counts = torch.bincount(torch.tensor([i for row in rows["classes"] for i in row]), minlength=4)
    assert trainer._token_counts().tolist() == want_counts.tolist()
    trainer.model.eval()
    total = count = weighted = 0.0
    held = load_rows(run.workspace.eval_rows).with_format("numpy")
    weights = want_counts.sum() / (4 * want_counts)
    for row in held:
        batch = HeadCollator(0)([row])
        targets = batch["labels"][batch["labels"] != IGNORED]
        nll = torch.nn.functional.cross_entropy(told_logits(trainer.model, batch), targets, reduction="none")
        total, count, weighted = total + nll.sum().item(), count + len(targets), weighted + (weights[targets] @ nll)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    batch = HeadCollator(0)([*held])
    batch.pop("real_tokens")
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(weighted.item() / count, rel=1e-5)


def test_a_head_that_did_not_move_has_learned_nothing(root: Path) -> None:
    trainer = trainer_of(prepared(root, TEXT, "unmoved"))
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data += 1
    with pytest.raises(LearnedNothingError, match="the head is unchanged"):
        trainer.require_learning()
    head_module(trainer.model).modules_to_save["default"].weight.data += 1
    trainer.require_learning()
