"""ONNX exports: built, proved, published and used as the model card says."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from finetune_trainer.errors import NotSupportedError, ParityError
from finetune_trainer.exporting import onnx_export
from finetune_trainer.exporting.formats import Sources
from finetune_trainer.exporting.gate import prove_application
from finetune_trainer.models.load import load_tokenizer
from finetune_trainer.run import Run
from finetune_trainer.stages import export
from tiny_models import build_tiny_model
from tuned_runs import chat_rows, keep_rows, make_run, make_tuned_run, parity_of, tune

pytestmark = pytest.mark.trainer
FP32, INT8, INT4 = ({"name": f"cpu-{p}", "format": "onnx", "precision": p} for p in ("fp32", "int8", "int4"))
WINDOW = 64


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained tiny llama, exported in both quantized precisions within the default limits."""
    root = tmp_path_factory.mktemp("onnx")
    run = make_tuned_run(root, "llama", steps=60, exports=[INT8, INT4], destination="pvc://out/bot")
    export.execute(run)
    return run


def folder(run: Run, name: str) -> Path:
    return run.local_path("pvc://out/bot") / name


def report(run: Run) -> dict[str, Any]:
    return {a["name"]: a for a in json.loads((folder(run, "report.json")).read_text())["artifacts"]}


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("phi3", {"sliding_window": WINDOW}),
        ("gemma3", {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_a_float_export_of_each_family_is_exact_also_beyond_the_sliding_window(
    tmp_path: Path, family: str, config: dict[str, Any]
) -> None:
    model = build_tiny_model(family, tmp_path / "model", **config)
    run = make_run(tmp_path, model, exports=[FP32], destination="pvc://out/bot")
    rows = chat_rows(model)
    keep_rows(run.workspace.eval_rows, rows)
    tune(run, rows)
    (artifact,) = export.execute(run).artifacts
    assert parity_of(artifact)["max_abs"] <= 1e-3
    assert parity_of(artifact)["top1"] == 1
    checks = report(run)["cpu-fp32"]["checks"]
    assert checks["renderedChats"] == 2
    assert checks["tokenizedTexts"] > 4
    assert checks["greedyGap"] <= 2e-3
    supervised = sum(sum(row["completion_mask"]) for row in rows)
    assert checks["positions"] == supervised + (16 if config else 0)


def test_quantized_exports_are_smaller_within_the_default_limits_and_timed(quantized: Run) -> None:
    found = report(quantized)
    for name in ("cpu-int8", "cpu-int4"):
        assert found[name]["parity"]["passed"] is True
        assert float(found[name]["tokensPerSecond"]) > 0
    assert found["cpu-int4"]["sizeBytes"] < found["cpu-int8"]["sizeBytes"]


def test_nothing_in_an_artefact_names_a_folder_of_this_machine(quantized: Run) -> None:
    root = str(quantized.workspace.root.parent).encode()
    for path in folder(quantized, "").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert root not in content, path.name
            assert b"site-packages" not in content, path.name


def test_the_artefact_is_complete_and_merged(quantized: Run) -> None:
    here = folder(quantized, "cpu-int4")
    want = {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert want | {"chat_template.jinja"} == {path.name for path in here.iterdir()}
    session = onnxruntime.InferenceSession(str(here / "model.onnx"), providers=["CPUExecutionProvider"])
    assert not [value.name for value in session.get_inputs() if "lora" in value.name]


def test_the_code_of_the_model_card_runs_and_answers(quantized: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(quantized, ""))
    blocks = re.findall(r"```python\n(import json.*?)```", (folder(quantized, "README.md")).read_text(), re.DOTALL)
    assert len(blocks) == 2
    question = "What is two plus three?"
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as answer:
            exec(block.replace('"Hello"', json.dumps(question)), {})  # noqa: S102 - our own documentation
        assert answer.getvalue().strip() == "five"


def test_a_graph_of_other_weights_is_refused(quantized: Run, tmp_path: Path) -> None:
    """The gate itself: the int8 graph against a tuned model that went on training."""
    model = build_tiny_model("llama")
    run = make_run(tmp_path, model, exports=[INT8], destination="pvc://out/bot")
    rows = chat_rows(model)
    keep_rows(run.workspace.eval_rows, rows)
    tune(run, rows, steps=20)
    (tmp_path / "scratch").mkdir()
    sources, reference = export._sources(run, tmp_path / "scratch", [])
    with pytest.raises(ParityError, match=r"export cpu-int8 \(onnx int8\).*parity\.maxKl"):
        export._prove(sources, reference, run.plan.exports[0], "int8", folder(quantized, "cpu-int8"))


def test_a_graph_that_its_runtime_refuses_is_named(quantized: Run, tmp_path: Path) -> None:
    shutil.copytree(folder(quantized, "cpu-int8"), tmp_path / "broken")
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no graph")
    (tmp_path / "scratch").mkdir()
    sources, reference = export._sources(quantized, tmp_path / "scratch", [])
    with pytest.raises(ParityError, match=r"export cpu-int8 .*cannot be loaded"):
        export._prove(sources, reference, quantized.plan.exports[0], "int8", tmp_path / "broken")


@pytest.mark.parametrize("change", ["vocabulary", "template"])
def test_a_tokenizer_or_template_that_differs_is_refused(quantized: Run, tmp_path: Path, change: str) -> None:
    (tmp_path / "scratch").mkdir()
    sources, reference = export._sources(quantized, tmp_path / "scratch", [])
    tokenizer = load_tokenizer(quantized.workspace.tuned)
    if change == "template":
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}!{% endfor %}"
    else:
        tokenizer.add_tokens(["Then stop"])
    want = "chat template" if change == "template" else "tokenizer"
    with pytest.raises(ParityError, match=f"the {want} of onnxruntime-genai"):
        prove_application(quantized.plan.exports[0], folder(quantized, "cpu-int8"), 1, reference, tokenizer)
    assert isinstance(sources, Sources)


def test_an_unknown_architecture_is_refused_with_a_way_out(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_embd=64, n_head=1, vocab_size=480, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(build_tiny_model("llama")).save_pretrained(tmp_path / "model")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(NotSupportedError, match="use format: safetensors"):
        onnx_export.build(
            tmp_path / "model", tmp_path / "out", precision="fp32", scratch=tmp_path / "scratch", threads=1
        )
