"""method.continueFrom: training goes on with an adapter that another run has made, on the same base."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapter_jobs import adapter_run, make_root, progress_of, source, write_rows
from finetune_api.status import Ancestor, Stage
from finetune_trainer.errors import InvalidModelError, InvalidSpecError, SourceNotFoundError, StageError
from finetune_trainer.evaluating.models import Contestants
from finetune_trainer.exporting.digests import digest, list_files
from finetune_trainer.result import store
from finetune_trainer.run import Run, Workspace
from finetune_trainer.stages import evaluate, export, prepare, train
from finetune_trainer.training import assembly
from finetune_trainer.training.preemption import Preemption
from tiny_models import build_tiny_model
from training_job import CrashError, CrashingProgress

pytestmark = pytest.mark.trainer
FIRST = "pvc://models/first"
WEIGHTS = "adapter_model.safetensors"
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"targetModules": ["q_proj", "down_proj"]},
    "lora by expression": {"targetModules": r"model\.layers\.\d+\.self_attn\.(q|v)_proj"},
    "rank-stabilized": {"rankStabilized": True},
    "dora": {"type": "dora"},
    "qlora": {"type": "qlora"},
    "ia3": {"type": "adapter"},
    "with a head": {"modulesToSave": ["lm_head"]},
    "with embeddings": {"modulesToSave": ["embed_tokens"]},
}


def job(root: Path, stage: Stage, workspace: str = "second", **parts: Any) -> Run:
    """A job that learns Italian answers; rank 8, as the French adapter, which it continues unless told otherwise."""
    method = {"rank": 8, "alpha": 16, "continueFrom": {"source": FIRST}, **parts.pop("method", {})}
    if method.get("type") == "adapter":
        method = {key: value for key, value in method.items() if key in ("type", "continueFrom")}
    run = adapter_run(root, stage, workspace, alone="italian", **parts)
    spec = run.spec.model_copy(update={"method": run.spec.method.model_validate(method)})
    return replace(run, request=run.request.model_copy(update={"spec": spec}))


def first(root: Path, method: dict[str, Any]) -> None:
    """Train an adapter on French answers, and put it at FIRST."""
    for stage, execute in ((Stage.PREPARE, prepare.execute), (Stage.TRAIN, train.execute)):
        execute(adapter_run(root, stage, "first", alone="french", method=method, training={"epochs": 1}))
    shutil.copytree(root / "first" / "tuned", root / "claims" / "models" / "first")


def prepared(folder: Path, name: str) -> tuple[Path, Run]:
    """A job that continues an adapter of one of METHODS, before it is trained, and the folder of its claims."""
    root = make_root(folder, family="qwen2" if name == "with embeddings" else "llama")
    first(root, METHODS[name])
    prepare.execute(job(root, Stage.PREPARE, method=METHODS[name]))
    return root, job(root, Stage.TRAIN, method=METHODS[name])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Claims with model, rows and the French adapter, and in `second` the job that continued it, trained."""
    root = make_root(tmp_path_factory.mktemp("continued"))
    first(root, {})
    prepare.execute(job(root, Stage.PREPARE))
    train.execute(job(root, Stage.TRAIN))
    return root


@pytest.mark.parametrize("name", METHODS)
def test_training_starts_from_every_value_of_the_adapter(tmp_path: Path, name: str) -> None:
    root, run = prepared(tmp_path, name)
    model = assembly._continued(run, assembly.load_base(run))
    assert model is not None
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    want = load_file(root / "claims" / "models" / "first" / WEIGHTS)
    assert found.keys() == want.keys()
    for key, tensor in want.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("name", METHODS)
def test_the_baseline_is_the_continued_adapter_whatever_the_method(tmp_path: Path, name: str) -> None:
    root, run = prepared(tmp_path, name)
    shutil.copytree(root / "first" / "tuned", run.workspace.tuned)
    contestants = Contestants(run)
    ids = torch.arange(8)[None]
    want = contestants.tuned(ids).logits
    with contestants._baseline() as model, torch.no_grad():
        assert torch.equal(model(ids).logits, want)
    assert torch.equal(contestants.tuned(ids).logits, want)


def test_an_adapter_that_somebody_changed_in_the_workspace_is_refused(root: Path) -> None:
    shutil.copytree(root / "second", root / "changed", symlinks=True)
    run = job(root, Stage.EVALUATE, "changed")
    weights = load_file(run.workspace.continued / WEIGHTS)
    save_file({key: tensor + 0.1 for key, tensor in weights.items()}, run.workspace.continued / WEIGHTS)
    for execute in (evaluate.execute, lambda run: assembly._continued(run, assembly.load_base(run))):
        with pytest.raises(InvalidModelError, match="somebody has changed its files"):
            execute(run)


@pytest.mark.parametrize("start", ["gaussian", "pissa"])
def test_an_adapter_of_others_means_what_it_means_to_peft_or_is_refused(tmp_path: Path, start: str) -> None:
    root = make_root(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(root / "claims" / "models" / "tiny")
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=start, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(root / "claims" / "models" / "first")
    if start == "pissa":
        with pytest.raises(InvalidSpecError, match="init_lora_weights: pissa"):
            prepare.execute(job(root, Stage.PREPARE))
        return
    prepare.execute(job(root, Stage.PREPARE))
    run = job(root, Stage.TRAIN)
    found = assembly._continued(run, assembly.load_base(run))
    assert found is not None
    ids = torch.arange(8)[None]
    torch.testing.assert_close(found(ids).logits, model.eval()(ids).logits)


def test_held_out_rows_that_are_longer_than_all_others_come_in_smaller_batches(root: Path) -> None:
    """Memory is planned for the rows that are trained on."""
    long = {"messages": [{"role": "user", "content": "the bank " * 60}, {"role": "assistant", "content": "oil"}]}
    write_rows(root / "claims" / "data" / "long.jsonl", [long] * 4)
    dataset = {"eval": source("long"), "maxLength": 512, "evalFraction": 0}
    prepare.execute(job(root, Stage.PREPARE, "long", dataset=dataset))
    run = job(root, Stage.TRAIN, "long", dataset=dataset)
    trainer, _ = assembly.build_trainer(run, assembly.checkpoint_store(run), Preemption())
    sizes = [batch["input_ids"].numel() for batch in trainer._eval_batches()]
    longest = max(len(row["input_ids"]) for row in trainer.train_dataset)
    assert len(sizes) == 4
    assert all(size > run.plan.training.micro_batch_size * longest for size in sizes)


def test_the_tuned_model_is_judged_against_the_adapter_that_it_continued(root: Path) -> None:
    """Its eval_loss is that of the French adapter on the same rows, measured by itself."""
    shutil.copytree(root / "second", root / "judged", symlinks=True)
    french = job(root, Stage.EVALUATE, "judged")
    shutil.rmtree(french.workspace.tuned)
    shutil.copytree(root / "claims" / "models" / "first", french.workspace.tuned)
    results = [evaluate.execute(run) for run in (job(root, Stage.EVALUATE), french)]
    assert "tuned against continued adapter: eval_loss" in results[0].message
    found, want = (result.evaluation for result in results)
    assert found is not None
    assert want is not None
    assert found.baseline == want.tuned
    assert float(found.tuned["eval_loss"]) < float(found.baseline["eval_loss"])


def test_the_result_is_exported_like_any_adapter(root: Path) -> None:
    evaluation = evaluate.execute(job(root, Stage.EVALUATE))
    run = job(root, Stage.EXPORT)
    store(run, evaluation)
    export.execute(run)
    card = (run.workspace.artifacts / "README.md").read_text()
    assert f"going on with the adapter `{FIRST}`" in card
    assert "| metric | continued adapter | this model |" in card
    [published] = run.workspace.artifacts.glob("*/adapter_model.safetensors")
    assert load_file(published).keys() == load_file(root / "claims" / "models" / "first" / WEIGHTS).keys()


def test_the_plan_tells_what_is_continued(root: Path) -> None:
    method = job(root, Stage.TRAIN).plan.method
    assert (method.continued_from, method.continued_digest[:7]) == (FIRST, "sha256:")


def test_a_killed_run_goes_on_from_its_checkpoint_and_not_from_the_adapter(root: Path) -> None:
    prepare.execute(job(root, Stage.PREPARE, "killed"))
    progress = CrashingProgress()
    progress.at = 3
    with pytest.raises(CrashError):
        train.execute(replace(job(root, Stage.TRAIN, "killed"), progress=progress))
    result = train.execute(job(root, Stage.TRAIN, "killed", attempt=2))
    assert "went on from the checkpoint of step 2" in result.message
    want = load_file(Workspace(root / "second").tuned / WEIGHTS)
    found = load_file(Workspace(root / "killed").tuned / WEIGHTS)
    assert all(torch.equal(found[key], tensor) for key, tensor in want.items())


def test_later_stages_do_not_need_the_source(root: Path) -> None:
    prepare.execute(job(root, Stage.PREPARE, "kept"))
    place = root / "claims" / "models" / "first"
    place.rename(place.with_name("gone"))
    try:
        train.execute(job(root, Stage.TRAIN, "kept"))
    finally:
        place.with_name("gone").rename(place)


def test_preferences_are_compared_with_the_continued_adapter(root: Path) -> None:
    """At its start a model is its own reference, so the loss of DPO is ln 2 (Rafailov et al. 2023, equation 7)."""
    parts = {"task": "preference", "training": {"objective": "dpo", "epochs": 1}, "method": {"dropout": 0}}
    prepare.execute(job(root, Stage.PREPARE, "preferred", **parts))
    run = job(root, Stage.TRAIN, "preferred", **parts)
    train.execute(run)
    assert progress_of(run).losses()[1] == pytest.approx(math.log(2), abs=1e-5)


def published_by(root: Path, **told: str) -> Run:
    """The job, whose adapter the operator has found at another job."""
    folder = root / "claims" / "models" / "first"
    nearest = {"job": "one", "uid": "u1", "artifact": "adapter", "uri": FIRST, "digest": digest(list_files(folder))}
    run = job(root, Stage.PREPARE, "traced")
    lineage = [Ancestor.model_validate({**nearest, **told})]
    return replace(run, request=run.request.model_copy(update={"lineage": lineage}))


def test_an_adapter_of_another_job_is_continued_as_it_was_published(root: Path) -> None:
    base = job(root, Stage.TRAIN).plan.model.digest
    assert prepare.execute(published_by(root, base_digest=base)).outcome == "Succeeded"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"digest": "sha256:0"}, f"job://one: what lies at {FIRST} is not what that job has published"),
        ({"base_digest": "sha256:0"}, "job://one has trained its adapter on other files"),
    ],
)
def test_an_adapter_of_another_job_that_does_not_fit_is_refused(root: Path, told: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidModelError, match=words):
        prepare.execute(published_by(root, **told))


def _truncate(folder: Path) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"x")


def _leave(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/etc/hostname")


def _whole(folder: Path) -> None:
    (folder / "adapter_config.json").rename(folder / "config.json")


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _half(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({key: tensor for key, tensor in weights.items() if "layers.0." in key}, folder / WEIGHTS)


def _list(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (_truncate, InvalidModelError, "adapter_model.safetensors has"),
        (_pickle, InvalidModelError, "adapter_model.bin is refused: such files can run code"),
        (_leave, InvalidModelError, "adapter_model.safetensors is a symbolic link that leaves its claim"),
        (_whole, InvalidModelError, "is a whole model, not an adapter: name it in model.source"),
        (_empty, SourceNotFoundError, "holds no adapter"),
        (_half, InvalidSpecError, "only the other has model.layers.1"),
        (_list, InvalidModelError, "adapter_config.json is not an object"),
    ],
)
def test_a_folder_that_cannot_be_continued_is_refused_in_prepare(
    root: Path, spoil: Any, error: type[StageError], words: str
) -> None:
    folder = root / "claims" / "models" / "spoiled"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "claims" / "models" / "first", folder)
    spoil(folder)
    with pytest.raises(error, match=words):
        prepare.execute(
            job(root, Stage.PREPARE, "spoiled", method={"continueFrom": {"source": "pvc://models/spoiled"}})
        )


def test_another_base_is_told_by_the_shapes(tmp_path: Path, root: Path) -> None:
    narrow = make_root(tmp_path)
    shutil.rmtree(narrow / "claims" / "models" / "tiny")
    build_tiny_model("llama", narrow / "claims" / "models" / "tiny", intermediate_size=96)
    shutil.copytree(root / "claims" / "models" / "first", narrow / "claims" / "models" / "first")
    with pytest.raises(InvalidSpecError, match="it was trained on another base"):
        prepare.execute(job(narrow, Stage.PREPARE))
