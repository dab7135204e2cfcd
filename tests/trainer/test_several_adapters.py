"""method.adapters: two adapters on one base, each from its own rows, with figures and artefacts of its own."""

import json
import os
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from adapter_jobs import ANSWERS, adapter_run, chat_rows, make_root, progress_of, source, write_rows
from finetune_api.status import Plan, Stage
from finetune_trainer.errors import (
    GateUnmetError,
    InvalidDataError,
    InvalidSpecError,
    LearnedNothingError,
    OutputUnwritableError,
    PreemptedError,
)
from finetune_trainer.evaluating.losses import row_losses
from finetune_trainer.evaluating.rows import load_rows
from finetune_trainer.exporting.report import Report
from finetune_trainer.models.digest import model_digest
from finetune_trainer.models.load import load_model
from finetune_trainer.named_adapters.runs import adapter_runs
from finetune_trainer.run import Run, Workspace
from finetune_trainer.stages import evaluate, export, prepare, train
from finetune_trainer.training.assembly import load_base
from finetune_trainer.training.shared_base import SharedBase
from trainer_requests import make_run
from training_job import CrashError, CrashingProgress, RecordedProgress

pytestmark = pytest.mark.trainer
STEPS = {"french": 6, "italian": 4}
"""Optimizer steps of each: two epochs of 24 and of 16 rows, in batches of 8."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model and rows, and in `workspace` the job with both adapters after prepare and train."""
    root = make_root(tmp_path_factory.mktemp("adapters"))
    prepare.execute(adapter_run(root, Stage.PREPARE))
    train.execute(adapter_run(root, Stage.TRAIN))
    return root


def tuned(root: Path, name: str = "", workspace: str = "workspace") -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(Workspace(root / workspace, name).tuned / "adapter_model.safetensors")
    return weights


def assert_equal(found: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert found.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(tensor, found[name]), name


def copy_of(root: Path, workspace: str) -> Path:
    """A copy of the trained job's workspace, for a test that changes it."""
    shutil.copytree(root / "workspace", root / workspace, symlinks=True)
    return root / workspace


# -- prepare -----------------------------------------------------------------------------------------------------


def test_each_adapter_gets_rows_and_a_plan_and_the_job_their_sum(root: Path) -> None:
    run = adapter_run(root, Stage.PREPARE, "prepared")
    result = prepare.execute(run)
    assert result.plan is not None
    assert result.dataset is not None
    assert [(a.name, a.train_rows, a.eval_rows, a.rank, a.total_steps) for a in result.plan.adapters] == [
        ("french", 24, 6, 8, STEPS["french"]),
        ("italian", 16, 4, 4, STEPS["italian"]),
    ]
    assert (result.dataset.train_rows, result.dataset.eval_rows) == (40, 10)
    assert result.plan.training.total_steps == sum(STEPS.values())
    assert result.plan.memory.estimated_bytes == max(a.estimated_bytes for a in result.plan.adapters)
    assert [(e.name, e.format) for e in result.plan.exports] == [("french", "peft"), ("italian", "peft")]
    assert result.message.startswith("2 adapters: 40 rows to train on and 10 held out; 10 steps")
    assert Plan.model_validate_json(run.workspace.plan.read_bytes()) == result.plan
    steps = [update["step"] for update in progress_of(run).updates]
    assert steps == sorted(steps)
    assert progress_of(run).updates[-1]["step"] == progress_of(run).updates[-1]["total_steps"]


def test_a_prepare_that_was_killed_after_the_first_adapter_is_repeated_as_if_it_had_not_been(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = prepare._prepared

    def dies_at_the_second(run: Run, *arguments: Any) -> Any:
        if run.workspace.adapter == "italian":
            raise CrashError
        return encoded(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_prepared", dies_at_the_second)
        with pytest.raises(CrashError):
            prepare.execute(adapter_run(root, Stage.PREPARE, "twice"))
    run = adapter_run(root, Stage.PREPARE, "twice", attempt=2)
    assert not run.workspace.plan.exists()
    found, want = prepare.execute(run), prepare.execute(adapter_run(root, Stage.PREPARE, "once"))
    assert found.plan is not None
    assert want.plan is not None
    untimed = {"estimated_seconds": None}  # the speed of the machine is measured anew
    assert found.plan.model_copy(update=untimed) == want.plan.model_copy(update=untimed)
    assert found.dataset == want.dataset


def test_a_finding_in_the_data_names_the_adapter(root: Path, tmp_path: Path) -> None:
    write_rows(root / "claims" / "data" / "odd.jsonl", [*chat_rows("italian"), {"messages": []}])
    adapters = [{"name": "french", "dataset": source("french")}, {"name": "italian", "dataset": source("odd")}]
    (tmp_path / "claims").symlink_to(root / "claims")
    run = make_run(tmp_path, dataset={}, method={"adapters": adapters})
    with pytest.raises(InvalidDataError, match=r"^adapter italian: .*line 21"):
        prepare.execute(run)
    assert not run.workspace.plan.exists()


def test_artefacts_that_would_share_a_name_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    exports = [{"name": name, "format": "peft"} for name in ("a", "a-a")]
    method = {"adapters": [{"name": name, "dataset": source("french")} for name in ("a", "a-a")]}
    with pytest.raises(InvalidSpecError, match="two artefacts would be named a-a-a"):
        prepare.execute(make_run(tmp_path, dataset={}, method=method, exports=exports))


def test_a_destination_that_holds_the_name_of_an_adapter_is_refused_at_once(root: Path) -> None:
    (root / "claims" / "out" / "french").mkdir(parents=True)
    with pytest.raises(OutputUnwritableError, match="french exists and is not this job's"):
        prepare.execute(adapter_run(root, Stage.PREPARE, "taken", output={"destination": "pvc://out"}))


# -- train -------------------------------------------------------------------------------------------------------


def test_each_adapter_is_the_best_on_its_own_rows_and_beats_the_base(root: Path) -> None:
    def loss(name: str, rows_of: str) -> float:
        workspace = Workspace(root / "workspace", rows_of)
        model = load_model(workspace.model, "fp32", "sdpa")
        if name:
            model = PeftModel.from_pretrained(model, Workspace(root / "workspace", name).tuned)
        table = row_losses(model.eval(), load_rows(workspace.eval_rows, 100, 0))
        return float(table[:, 0].sum() / table[:, 1].sum())

    for name, other in (("french", "italian"), ("italian", "french")):
        assert loss(name, name) < loss(other, name)
        assert loss(name, name) < 0.9 * loss("", name)


METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": {"type": "lora"}},
    "dora": {"method": {"type": "dora"}},
    "ia3": {"method": {"type": "adapter"}},
    "qlora": {"method": {"type": "qlora"}},
    "loftq": {"method": {"type": "qlora", "initialization": "loftq"}},
    "checkpointing": {"method": {"type": "lora"}, "training": {"gradientCheckpointing": True}},
    "pissa": {"method": {"type": "lora", "initialization": "pissa"}},
    "modules": {"method": {"type": "lora", "modulesToSave": ["lm_head"]}},
    "dpo": {"task": "preference", "training": {"objective": "dpo", "learningRate": 0.003}},
}
LOADED_FOR_EACH = ("pissa", "modules")


@pytest.mark.parametrize("kind", METHODS)
def test_an_adapter_on_a_shared_base_equals_the_one_of_a_job_of_its_own(
    root: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second adapter, bit for bit: nothing of the first one is left in the base.
    loadings = []
    load = train.load_base

    def counted(run: Run) -> Any:
        loadings.append(run.workspace.adapter)
        return load(run)

    monkeypatch.setattr(train, "load_base", counted)
    (tmp_path / "claims").symlink_to(root / "claims")
    model = root / "claims" / "models" / "tiny"
    before = model_digest(model)
    parts = METHODS[kind]
    prepare.execute(adapter_run(tmp_path, Stage.PREPARE, "both", **parts))
    train.execute(adapter_run(tmp_path, Stage.TRAIN, "both", **parts))
    assert loadings == ["french", "italian"] if kind in LOADED_FOR_EACH else ["french"]
    prepare.execute(adapter_run(tmp_path, Stage.PREPARE, "alone", alone="italian", **parts))
    train.execute(adapter_run(tmp_path, Stage.TRAIN, "alone", alone="italian", **parts))
    assert_equal(tuned(tmp_path, "italian", "both"), tuned(tmp_path, workspace="alone"))
    assert model_digest(model) == before


def test_a_base_that_an_adapter_has_changed_is_loaded_anew(root: Path) -> None:
    run = adapter_run(root, Stage.TRAIN)
    part = adapter_runs(run)[0]
    shared = SharedBase(load_base)
    for change in (0.0, 1.0):
        base = shared.of(part)
        model = PeftModel.from_pretrained(base, part.workspace.tuned)
        next(base.parameters()).data.view(-1)[0] += change
        shared.take_back(part, model)
        found = shared.of(part)
        assert (found is base) is (change == 0)
        assert not any("lora" in name for name, _ in found.named_modules())
        shared.take_back(part, PeftModel.from_pretrained(found, part.workspace.tuned))


def test_progress_is_over_all_steps_and_says_which_adapter(root: Path) -> None:
    workspace = copy_of(root, "progress")
    for name in ANSWERS:
        shutil.rmtree(workspace / "adapters" / name / "results")
        shutil.rmtree(workspace / "adapters" / name / "checkpoints")
    run = adapter_run(root, Stage.TRAIN, "progress")
    result = train.execute(run)
    updates = progress_of(run).updates
    assert {update["total_steps"] for update in updates} == {sum(STEPS.values())}
    assert all(earlier["step"] <= later["step"] for earlier, later in pairwise(updates))
    assert updates[-1]["step"] == sum(STEPS.values())
    assert [*dict.fromkeys(update["adapter"] for update in updates)] == ["french", "italian"]
    first = [update for update in updates if update["adapter"] == "french" and update.get("seconds_left") is not None]
    assert first[-1]["seconds_left"] >= 0
    trained = [point for point in result.history if point.loss is not None]
    assert [point.step for point in trained] == [*range(1, 11)]
    assert [point.adapter for point in trained] == ["french"] * 6 + ["italian"] * 4
    assert result.metrics is not None
    assert result.metrics.adapter == "italian"
    assert result.checkpoint is not None
    assert result.checkpoint.step == 10
    assert result.message == "french: trained 6 of 6 steps; italian: trained 4 of 4 steps"


@pytest.mark.parametrize("at", [3, 6, 9])
def test_a_killed_run_goes_on_with_the_adapter_that_was_trained(root: Path, at: int) -> None:
    workspace = f"killed-{at}"
    prepare.execute(adapter_run(root, Stage.PREPARE, workspace))
    progress = CrashingProgress()
    progress.at = at
    with pytest.raises(CrashError):
        train.execute(replace(adapter_run(root, Stage.TRAIN, workspace), progress=progress))
    first = Workspace(root / workspace, "french").tuned / "adapter_model.safetensors"
    written = first.stat().st_mtime_ns if first.exists() else None
    assert (written is not None) is (at > STEPS["french"])
    run = adapter_run(root, Stage.TRAIN, workspace, attempt=2)
    result = train.execute(run)
    trained = {update["adapter"] for update in progress_of(run).updates if update.get("seconds_left") is not None}
    if written is not None:
        assert first.stat().st_mtime_ns == written
        assert trained == {"italian"}
        assert "italian: trained 4 of 4 steps; went on from the checkpoint of step 2" in result.message
    steps = [update["step"] for update in progress_of(run).updates]
    assert steps == sorted(steps)
    assert [point.step for point in result.history if point.loss is not None] == [*range(1, 11)]
    for name in ANSWERS:
        assert_equal(tuned(root, name, workspace), tuned(root, name))


def test_a_finished_run_is_not_trained_again(root: Path) -> None:
    copy_of(root, "finished")
    run = adapter_run(root, Stage.TRAIN, "finished", attempt=2)
    result = train.execute(run)
    assert progress_of(run).of("seconds_left") == []
    assert [point.step for point in result.history if point.loss is not None] == [*range(1, 11)]
    assert {point.adapter for point in progress_of(run).of("point")} == {*ANSWERS}


def test_a_preempted_run_says_which_adapter_it_stopped_at(root: Path) -> None:
    prepare.execute(adapter_run(root, Stage.PREPARE, "preempted"))
    run = adapter_run(root, Stage.TRAIN, "preempted")

    class Stopping(RecordedProgress):
        def update(self, step: int, _total_steps: int, **values: Any) -> None:
            if step == STEPS["french"] + 2 and values.get("seconds_left") is not None:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(PreemptedError, match=r"^adapter italian: the pod was asked to stop; the checkpoint of step 2"):
        train.execute(replace(run, progress=Stopping()))
    train.execute(adapter_run(root, Stage.TRAIN, "preempted", attempt=2))
    assert_equal(tuned(root, "italian", "preempted"), tuned(root, "italian"))


def test_an_adapter_that_learned_nothing_fails_the_job_by_name(root: Path) -> None:
    parts: dict[str, Any] = {"training": {"learningRate": 1e-45}}
    prepare.execute(adapter_run(root, Stage.PREPARE, "idle", **parts))
    with pytest.raises(LearnedNothingError, match=r"^adapter french: the weights are unchanged after training"):
        train.execute(adapter_run(root, Stage.TRAIN, "idle", **parts))


# -- evaluate ----------------------------------------------------------------------------------------------------


def test_each_adapter_is_judged_on_its_own_rows(root: Path) -> None:
    copy_of(root, "judged")
    run = adapter_run(root, Stage.EVALUATE, "judged")
    result = evaluate.execute(run)
    assert result.evaluation is not None
    assert [(a.name, a.rows) for a in result.evaluation.adapters] == [("french", 6), ("italian", 4)]
    for adapter in result.evaluation.adapters:
        assert adapter.tuned["eval_loss"] < adapter.baseline["eval_loss"]
    assert result.message.startswith("french: 6 held-out rows, tuned against base model: eval_loss")
    assert "; italian: 4 held-out rows" in result.message
    updates = progress_of(run).updates
    assert all(earlier["step"] <= later["step"] for earlier, later in pairwise(updates))
    assert (updates[-1]["step"], updates[-1]["total_steps"]) == (10, 10)
    for name in ANSWERS:
        assert (Workspace(root / "judged", name).results / "comparison.json").exists()
        assert (Workspace(root / "judged", name).results / "samples.jsonl").exists()


def test_a_gate_that_one_adapter_misses_fails_the_job_with_its_name(root: Path) -> None:
    copy_of(root, "gated")
    found = evaluate.execute(adapter_run(root, Stage.EVALUATE, "gated")).evaluation
    assert found is not None
    losses = {adapter.name: adapter.tuned["eval_loss"] for adapter in found.adapters}
    worse = max(losses, key=lambda name: losses[name])
    bar = sum(losses.values()) / 2
    gates = {"gates": [{"metric": "eval_loss", "atMost": bar}]}
    with pytest.raises(GateUnmetError, match=f"evaluation.gates of adapter {worse} on .* eval_loss must be") as caught:
        evaluate.execute(adapter_run(root, Stage.EVALUATE, "gated", evaluation=gates))
    assert str(caught.value).count("of adapter") == 1
    assert caught.value.evaluation is not None
    verdicts = {adapter.name: adapter.gates[0].passed for adapter in caught.value.evaluation.adapters}
    assert verdicts == {name: name != worse for name in losses}


def test_an_adapter_that_was_measured_is_not_measured_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_of(root, "measured")
    measured: list[str] = []
    measure = evaluate._evaluated

    def dies_at_the_second(run: Run) -> Any:
        measured.append(run.workspace.adapter)
        if len(measured) == 2:
            raise CrashError
        return measure(run)

    monkeypatch.setattr(evaluate, "_evaluated", dies_at_the_second)
    with pytest.raises(CrashError):
        evaluate.execute(adapter_run(root, Stage.EVALUATE, "measured"))
    result = evaluate.execute(adapter_run(root, Stage.EVALUATE, "measured", attempt=2))
    assert measured == ["french", "italian", "italian"]
    assert result.evaluation is not None
    assert [adapter.name for adapter in result.evaluation.adapters] == [*ANSWERS]


# -- export ------------------------------------------------------------------------------------------------------


def exported(root: Path, workspace: str, **parts: Any) -> tuple[Run, Any]:
    """Export of the trained job with other exports than it was prepared with."""
    folder = copy_of(root, workspace)
    run = adapter_run(root, Stage.EXPORT, workspace, **parts)
    plan = Plan.model_validate_json((folder / "plan.json").read_bytes())
    whole = []
    for part in adapter_runs(run):
        own = Plan.model_validate_json(part.workspace.plan.read_bytes())
        part.workspace.plan.write_text(
            own.model_copy(update={"exports": part.spec.exports}).model_dump_json(by_alias=True)
        )
        whole += part.spec.exports
    (folder / "plan.json").write_text(plan.model_copy(update={"exports": whole}).model_dump_json(by_alias=True))
    return run, export.execute(run)


def test_each_adapter_is_published_for_the_untouched_base(root: Path) -> None:
    run, result = exported(root, "exported", output={"destination": "pvc://published/two"})
    assert [(a.name, a.format, a.uri) for a in result.artifacts] == [
        (name, "peft", f"pvc://published/two/{name}") for name in ANSWERS
    ]
    assert all(artifact.parity.passed for artifact in result.artifacts)
    folder = root / "claims" / "published" / "two"
    logits = {}
    for name in ANSWERS:
        model = PeftModel.from_pretrained(load_model(run.workspace.model, "fp32", "sdpa"), folder / name).eval()
        logits[name] = model(torch.arange(10, 30)[None]).logits
        with model.disable_adapter():
            assert not torch.allclose(logits[name], model(torch.arange(10, 30)[None]).logits)
    assert not torch.allclose(*logits.values())
    report = json.loads((folder / "report.json").read_text())
    assert report["complete"]
    assert [*report["adapters"]] == [*ANSWERS]
    assert report["adapters"]["italian"]["dataset"]["trainRows"] == 16
    assert report["adapters"]["french"]["training"]["history"]
    card = (folder / "README.md").read_text()
    assert "--lora-modules french=./french italian=./italian" in card
    assert "2 adapters of type lora, each on rows of its own" in card
    assert progress_of(run).updates[-1]["step"] == progress_of(run).updates[-1]["total_steps"] == 2


def test_whole_models_are_published_one_for_each_adapter(root: Path) -> None:
    asked = [{"name": "merged", "format": "safetensors", "precision": "fp32"}, {"name": "adapter", "format": "peft"}]
    run, result = exported(root, "merged", exports=asked)
    names = [f"{adapter}-{name}" for adapter in ANSWERS for name in ("merged", "adapter")]
    assert [artifact.name for artifact in result.artifacts] == names
    weights = [load_file(run.workspace.artifacts / f"{name}-merged" / "model.safetensors") for name in ANSWERS]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_onnx_is_made_of_each_adapter(root: Path) -> None:
    _, result = exported(root, "onnx", exports=[{"name": "cpu", "format": "onnx"}])
    assert [(a.name, a.format, a.parity.passed) for a in result.artifacts] == [
        (f"{name}-cpu", "onnx", True) for name in ANSWERS
    ]
    assert result.artifacts[0].digest != result.artifacts[1].digest


def test_a_killed_export_goes_on_with_what_is_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Report.add

    def dies_after_the_first(report: Report, *arguments: Any) -> None:
        add(report, *arguments)
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(Report, "add", dies_after_the_first)
        with pytest.raises(CrashError):
            exported(root, "cut")
    first = root / "cut" / "artifacts" / "french" / "adapter_model.safetensors"
    written = first.stat().st_mtime_ns
    result = export.execute(adapter_run(root, Stage.EXPORT, "cut", attempt=2))
    assert [artifact.name for artifact in result.artifacts] == [*ANSWERS]
    assert first.stat().st_mtime_ns == written
