"""Stage export without ONNX: what is published, what is refused, and what a killed export leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from finetune_trainer.errors import OutputUnwritableError, ParityError, PreemptedError
from finetune_trainer.exporting import formats
from finetune_trainer.exporting.digests import digest, list_files
from finetune_trainer.models import merge
from finetune_trainer.ownership import enter_attempt
from finetune_trainer.run import Run
from finetune_trainer.stages import export
from killed_export import KILL_POINTS, KILLED, export_until
from tiny_models import FAMILIES, build_tiny_model
from tuned_runs import chat_rows, keep_rows, make_run, make_tuned_run, parity_of, progress_of, tune

pytestmark = pytest.mark.trainer
ADAPTER, MERGED = {"name": "adapter", "format": "peft"}, {"name": "merged", "format": "safetensors"}


def tuned_run(root: Path, family: str = "llama", **settings: Any) -> Run:
    return make_tuned_run(root, family, **{"exports": [ADAPTER, MERGED], "destination": "pvc://out/bot", **settings})


def published(run: Run) -> Path:
    return run.local_path("pvc://out/bot")


def logits(model: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in rows])


def tuned_logits(run: Run) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(run.workspace.model, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(base, run.workspace.tuned).eval(), chat_rows(run.workspace.model))


def tree(folder: Path) -> dict[str, str]:
    return {file.name: file.sha256 for file in list_files(folder)}


def test_adapter_and_merged_model_are_published_with_report_and_card(tmp_path: Path) -> None:
    run = tuned_run(tmp_path)
    result = export.execute(run)
    folder = published(run)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "adapter", "merged", "report.json"]
    assert [(a.name, a.format, a.precision, a.uri) for a in result.artifacts] == [
        ("adapter", "peft", "fp32", "pvc://out/bot/adapter"),
        ("merged", "safetensors", "fp32", "pvc://out/bot/merged"),
    ]
    for artifact in result.artifacts:
        files = list_files(folder / artifact.name)
        assert artifact.size_bytes == sum(file.size for file in files)
        assert artifact.digest == digest(files)
        assert parity_of(artifact)["passed"]
    assert progress_of(run).steps == [(0, 2), (1, 2), (2, 2)]
    assert not (run.workspace.root / "export-scratch").exists()


def test_the_merged_model_computes_what_base_and_adapter_compute(tmp_path: Path) -> None:
    run = tuned_run(tmp_path)
    export.execute(run)
    whole = AutoModelForCausalLM.from_pretrained(published(run) / "merged").eval()
    torch.testing.assert_close(logits(whole, chat_rows(run.workspace.model)), tuned_logits(run), atol=1e-4, rtol=0)


def test_the_adapter_names_its_base_as_a_server_does_and_keeps_the_chat_template(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, source="hf://acme/tiny-llama")
    export.execute(run)
    adapter = published(run) / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "acme/tiny-llama"
    assert str(tmp_path) not in "".join(path.read_text() for path in adapter.glob("*.json"))
    want = AutoTokenizer.from_pretrained(run.workspace.model)
    assert AutoTokenizer.from_pretrained(adapter).chat_template == want.chat_template


def test_the_published_adapter_holds_only_adapter_weights(tmp_path: Path) -> None:
    run = tuned_run(tmp_path)
    export.execute(run)
    names = load_file(published(run) / "adapter" / "adapter_model.safetensors")
    assert names
    assert all(".lora_" in name for name in names)


def test_the_report_tells_the_whole_story(tmp_path: Path) -> None:
    run = tuned_run(tmp_path)
    export.execute(run)
    report = json.loads((published(run) / "report.json").read_text())
    assert report["complete"] is True
    assert report["job"] == {"namespace": "team", "name": "bot", "uid": "uid-1"}
    assert {"spec", "plan", "dataset", "training", "evaluation", "comparison", "versions"} <= set(report)
    assert report["versions"]["torch"] == torch.__version__
    assert {f["name"]: f["sha256"] for f in report["artifacts"][1]["files"]} == tree(published(run) / "merged")


def test_the_card_has_the_numbers_and_the_commands(tmp_path: Path) -> None:
    run = tuned_run(tmp_path)
    export.execute(run)
    card = (published(run) / "README.md").read_text()
    for want in ("base_model: acme/tiny", "# bot", "PeftModel.from_pretrained", "vllm serve acme/tiny --enable-lora"):
        assert want in card


@pytest.mark.parametrize("family", ["qwen2", "phi3", "gemma3"])
def test_families_with_tied_embeddings_or_fused_projections_merge_and_reload(tmp_path: Path, family: str) -> None:
    run = tuned_run(tmp_path, family)
    export.execute(run)
    tied = bool(FAMILIES[family].config["tie_word_embeddings"])
    folder = published(run) / "merged"
    assert AutoConfig.from_pretrained(folder).tie_word_embeddings is tied
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) is not tied


@pytest.mark.parametrize("whole_modules", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens"]], ids=str)
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_tied_embeddings_that_training_made_two_are_both_saved(
    tmp_path: Path, family: str, whole_modules: list[str]
) -> None:
    model = build_tiny_model(family)
    run = make_run(tmp_path, model, exports=[ADAPTER, MERGED], destination="pvc://out/bot")
    rows = chat_rows(model)
    keep_rows(run.workspace.eval_rows, rows)
    tune(run, rows, steps=5, modules_to_save=whole_modules, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    export.execute(run)
    whole = AutoModelForCausalLM.from_pretrained(published(run) / "merged").eval()
    torch.testing.assert_close(logits(whole, rows), tuned_logits(run), atol=1e-4, rtol=0)


def test_a_bf16_base_gives_a_bf16_model_unless_fp32_is_asked_for(tmp_path: Path) -> None:
    base = tmp_path / "bf16"
    source = build_tiny_model("llama")
    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(base)
    AutoTokenizer.from_pretrained(source).save_pretrained(base)
    full = {"name": "full-precision", "format": "safetensors", "precision": "fp32"}
    run = make_run(tmp_path, base, exports=[MERGED, full], destination="pvc://out/bot")
    rows = chat_rows(base)
    keep_rows(run.workspace.eval_rows, rows)
    tune(run, rows, steps=20)
    own, wide = export.execute(run).artifacts
    assert (own.precision, wide.precision) == ("bf16", "fp32")
    for name, want in (("merged", torch.bfloat16), ("full-precision", torch.float32)):
        assert {t.dtype for t in load_file(published(run) / name / "model.safetensors").values()} == {want}
        assert AutoConfig.from_pretrained(published(run) / name).dtype == want
    assert parity_of(wide)["max_abs"] < 1e-3 < parity_of(own)["max_abs"]


def test_a_fully_tuned_model_is_published_whole(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, "qwen2", exports=[MERGED], method="full", steps=2)
    export.execute(run)
    whole = AutoModelForCausalLM.from_pretrained(published(run) / "merged").eval()
    want = AutoModelForCausalLM.from_pretrained(run.workspace.tuned).eval()
    rows = chat_rows(run.workspace.model)
    torch.testing.assert_close(logits(whole, rows), logits(want, rows))


def test_generation_of_the_merged_model_stops_where_training_taught_to(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, "phi3", exports=[MERGED])
    export.execute(run)
    tokenizer = AutoTokenizer.from_pretrained(published(run) / "merged")
    settings = json.loads((published(run) / "merged" / "generation_config.json").read_text())
    assert tokenizer.convert_tokens_to_ids("<|end|>") in settings["eos_token_id"]


def test_without_held_out_rows_train_rows_are_compared(tmp_path: Path) -> None:
    model = build_tiny_model("llama")
    run = make_run(tmp_path, model, exports=[ADAPTER], destination="pvc://out/bot")
    rows = chat_rows(model)
    keep_rows(run.workspace.train_rows, rows)
    tune(run, rows)
    assert parity_of(export.execute(run).artifacts[0])["top1"] == 1


def test_without_destination_artefacts_stay_in_the_workspace(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, exports=[ADAPTER], destination=None)
    (artifact,) = export.execute(run).artifacts
    assert artifact.uri == "pvc://bot-workspace/artifacts/adapter"
    assert (run.workspace.artifacts / "adapter" / "adapter_model.safetensors").exists()


def test_an_export_outside_its_limits_is_named_and_not_published(tmp_path: Path) -> None:
    strict = MERGED | {"parity": {"maxAbs": 1e-12}}
    run = tuned_run(tmp_path, exports=[ADAPTER, strict])
    with pytest.raises(
        ParityError, match=r"export merged \(safetensors\).*parity\.maxAbs: .*the limit is 1e-12"
    ) as error:
        export.execute(run)
    assert [artifact.name for artifact in error.value.artifacts] == ["adapter"]
    assert sorted(path.name for path in published(run).iterdir()) == ["adapter", "report.json"]
    assert json.loads((published(run) / "report.json").read_text())["complete"] is False


def test_a_model_with_a_wrong_weight_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tuned_run(tmp_path, exports=[MERGED])
    right = merge.save_whole

    def wrong(model: Any, *rest: Any) -> None:
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight[:, 0] += 0.5
        right(model, *rest)

    monkeypatch.setattr(formats, "save_whole", wrong)
    with pytest.raises(ParityError, match="export merged"):
        export.execute(run)
    assert [path.name for path in published(run).iterdir()] == ["report.json"]


def test_an_adapter_that_is_not_finite_is_not_published(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, exports=[ADAPTER])
    from safetensors.torch import save_file

    path = run.workspace.tuned / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ParityError):
        export.execute(run)


def test_a_destination_that_cannot_be_written_names_the_field(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, exports=[ADAPTER])
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "out").touch()
    with pytest.raises(OutputUnwritableError, match=r"output\.destination"):
        export.execute(run)


def test_a_leftover_attempt_publishes_nothing(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, exports=[ADAPTER])
    enter_attempt(run.workspace.root, run.request.model_copy(update={"attempt": 2}))
    with pytest.raises(PreemptedError, match="leftover"):
        export.execute(run)
    assert not (published(run) / "adapter").exists()


def test_a_second_call_keeps_what_is_whole_and_repairs_what_is_not(tmp_path: Path) -> None:
    run = tuned_run(tmp_path)
    want = export.execute(run)
    kept = (published(run) / "merged" / "model.safetensors").stat().st_ino
    (published(run) / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    assert export.execute(run).artifacts == want.artifacts
    assert (published(run) / "merged" / "model.safetensors").stat().st_ino == kept


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_killed_export_called_again_ends_with_the_same_artefacts(point: str, tmp_path: Path) -> None:
    run = tuned_run(tmp_path)
    (tmp_path / "request.json").write_text(run.request.model_dump_json(by_alias=True, exclude_none=True))
    assert export_until(point, tmp_path) == KILLED, "the point was never reached"
    artifacts = export.execute(run).artifacts
    assert [a.name for a in artifacts] == ["adapter", "merged"]
    assert sorted(path.name for path in published(run).iterdir()) == ["README.md", "adapter", "merged", "report.json"]
    assert not (run.workspace.root / "export-scratch").exists()
    for artifact in artifacts:
        assert digest(list_files(published(run) / artifact.name)) == artifact.digest


def test_a_kill_while_a_damaged_artefact_is_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    run = tuned_run(tmp_path, exports=[ADAPTER])
    (tmp_path / "request.json").write_text(run.request.model_dump_json(by_alias=True, exclude_none=True))
    want = export.execute(run).artifacts
    (published(run) / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    assert export_until("after the rename and before the report", tmp_path) == KILLED
    (published(run) / ".partial-uid-1-adapter.old").mkdir()
    assert export.execute(run).artifacts == want
    assert sorted(path.name for path in published(run).iterdir()) == ["README.md", "adapter", "report.json"]
