"""A GGUF file becomes an ordinary model folder: same function, same tokenizer, same template, no trace of GGUF."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import InvalidModelError
from finetune_trainer.models import sources
from finetune_trainer.models.load import load_model, load_tokenizer
from finetune_trainer.models.sources import bring_model
from finetune_trainer.run import Run
from tiny_gguf import write_gguf
from tiny_models import build_tiny_model
from trainer_requests import make_run

pytestmark = pytest.mark.trainer


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    """The claim `models` with tiny/model.gguf."""
    folder = tmp_path / "claims" / "models" / "tiny"
    folder.mkdir(parents=True)
    write_gguf(build_tiny_model("llama"), folder / "model.gguf")
    return tmp_path


def run_on(root: Path, source: str = "pvc://models/tiny") -> Run:
    return make_run(root, model={"source": source})


def logits(folder: Path, ids: list[int]) -> Any:
    import torch

    model = load_model(folder, "fp32", "sdpa")
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


@pytest.mark.parametrize("source", ["pvc://models/tiny", "pvc://models/tiny/model.gguf"])
def test_a_converted_model_computes_what_the_original_does(claim: Path, source: str) -> None:
    import torch

    run = run_on(claim, source)
    bring_model(run)
    ids = list(range(20, 60))
    got, want = logits(run.workspace.model, ids), logits(build_tiny_model("llama"), ids)
    cosine = torch.nn.functional.cosine_similarity(got, want, dim=-1)
    assert float(cosine.min()) > 0.999


def test_tokenizer_and_template_travel_with_it(claim: Path) -> None:
    run = run_on(claim)
    bring_model(run)
    got, want = load_tokenizer(run.workspace.model), load_tokenizer(build_tiny_model("llama"))
    text = "What is two plus three? <|eot_id|>\n"
    assert got(text, add_special_tokens=False)["input_ids"] == want(text, add_special_tokens=False)["input_ids"]
    assert got.chat_template == want.chat_template
    assert (got.eos_token, got.bos_token, got.pad_token) == (want.eos_token, want.bos_token, want.pad_token)


def test_the_result_is_bf16_safetensors_without_quantization(claim: Path) -> None:
    run = run_on(claim)
    model = bring_model(run)
    assert {tensor.dtype for tensor in model.tensors} == {"BF16"}
    config = json.loads((run.workspace.model / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")


def test_a_conversion_is_done_once(claim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = bring_model(run_on(claim))

    def refuse(*_: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(sources, "convert_gguf", refuse)
    assert bring_model(run_on(claim)) == want


def test_a_conversion_that_was_killed_starts_again(claim: Path) -> None:
    run = run_on(claim)
    (run.workspace.root / ".model").mkdir()
    (run.workspace.root / ".model" / "model.safetensors").write_bytes(b"half")
    assert bring_model(run).digest == bring_model(run_on(claim)).digest


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        ("broken.gguf", b"GGUF\x03\x00\x00\x00", "broken.gguf cannot be read"),
        ("renamed.gguf", b"PK\x03\x04", "renamed.gguf is not a GGUF file"),
        ("m-00001-of-00002.gguf", b"GGUF", "is one part of several; join them first"),
    ],
)
def test_a_gguf_file_that_cannot_be_used_is_named(claim: Path, name: str, content: bytes, want: str) -> None:
    (claim / "claims" / "models" / name).write_bytes(content)
    with pytest.raises(InvalidModelError, match=want):
        bring_model(run_on(claim, f"pvc://models/{name}"))


@pytest.mark.parametrize("tenths", [3, 6, 9])
def test_a_cut_gguf_file_is_refused(claim: Path, tenths: int) -> None:
    path = claim / "claims" / "models" / "tiny" / "model.gguf"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenths // 10])
    with pytest.raises(InvalidModelError, match=r"model\.gguf cannot be read"):
        bring_model(run_on(claim))


def test_several_gguf_files_ask_for_one(claim: Path) -> None:
    (claim / "claims" / "models" / "tiny" / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidModelError, match=r"several GGUF files \(model\.gguf, other\.gguf\); name one of them"):
        bring_model(run_on(claim))
