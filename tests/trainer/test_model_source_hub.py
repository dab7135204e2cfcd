"""Models and datasets of a hub, with the real client against a hub on loopback.

The client reads its address when it is imported, so all scenarios run in one process of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from fake_hub import FakeHub, fake_hub
from tiny_models import build_tiny_model

pytestmark = pytest.mark.trainer
MODEL_COMMIT, DATA_COMMIT, ADAPTER_COMMIT = "a" * 40, "b" * 40, "c" * 40
TESTS = Path(__file__).parents[1]

SCENARIOS: dict[str, dict[str, Any]] = {
    "smallest": {},
    "again": {"workspace": "smallest"},
    "pinned": {"model": {"source": "hf://org/tiny", "revision": MODEL_COMMIT}},
    "continued": {"method": {"continueFrom": {"source": "hf://org/adapter"}}},
    "another rank": {"method": {"rank": 4, "continueFrom": {"source": "hf://org/adapter"}}},
    "no adapter": {"method": {"continueFrom": {"source": "hf://org/notes"}}},
    "sliced": {"dataset": {"train": {"source": "hf://org/data", "split": "train[:50%]"}}},
    "absent": {"model": {"source": "hf://org/absent"}},
    "gated": {"model": {"source": "hf://org/gated"}},
    "no revision": {"model": {"source": "hf://org/tiny", "revision": "v9"}},
    "no organisation": {"model": {"source": "hf://tiny"}},
    "pickled": {"model": {"source": "hf://org/pickled"}},
    "gguf": {"model": {"source": "hf://org/gguf"}},
    "no model": {"model": {"source": "hf://org/notes"}},
    "no data": {"dataset": {"train": {"source": "hf://org/absent"}}},
    "no split": {"dataset": {"train": {"source": "hf://org/data", "split": "holdout"}}},
    "script": {"dataset": {"train": {"source": "hf://org/script"}}},
    "bad rows": {"dataset": {"train": {"source": "hf://org/bad"}}},
}

DRIVER = """
import json, sys
from pathlib import Path
from trainer_requests import make_run
from finetune_trainer.errors import StageError
from finetune_trainer.stages import prepare
root, hub = Path(sys.argv[1]), {"model": {"source": "hf://org/tiny"}, "dataset": {"train": {"source": "hf://org/data"}}}
for name, spec in json.loads(sys.argv[2]).items():
    run = make_run(root / spec.pop("workspace", name), **{**hub, **spec})
    try:
        result = prepare.execute(run)
        files = sorted(file.name for file in run.workspace.model.iterdir())
        answer = {"result": result.model_dump(mode="json", by_alias=True), "files": files}
    except StageError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    (root / f"{name}.json").write_text(json.dumps(answer))
"""


def adapter(folder: Path) -> Path:
    """A LoRA adapter of the default rank on the published model, with files that are of no use here."""
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(build_tiny_model("llama")), config).save_pretrained(folder)
    (folder / "optimizer.pt").write_bytes(b"x")
    return folder


def publish(hub: FakeHub, root: Path) -> None:
    """Everything that the scenarios name."""

    def folder(name: str, **files: str) -> Path:
        path = root / "published" / name
        path.mkdir(parents=True)
        for file, content in files.items():
            (path / file.replace("_dot_", ".")).write_text(content)
        return path

    rows = "".join(json.dumps({"prompt": f"p{i}", "completion": f"c{i}"}) + "\n" for i in range(20))
    hub.add("model", "org/tiny", build_tiny_model("llama"), MODEL_COMMIT)
    hub.add("model", "org/gated", build_tiny_model("llama")).gated = True
    hub.add("model", "org/pickled", folder("pickled", config_dot_json="{}", pytorch_model_dot_bin="x"))
    hub.add("model", "org/gguf", folder("gguf", model_dot_gguf="GGUF"))
    hub.add("model", "org/notes", folder("notes", README_dot_md="x"))
    hub.add("model", "org/adapter", adapter(root / "published" / "adapter"), ADAPTER_COMMIT)
    hub.add("dataset", "org/data", folder("data", train_dot_jsonl=rows), DATA_COMMIT)
    canary = f"open({str(root / 'canary')!r}, 'w')\n"
    hub.add("dataset", "org/script", folder("script", script_dot_py=canary))
    hub.add("dataset", "org/bad", folder("bad", train_dot_jsonl=rows + '{"prompt": "p", "completion": ""}\n'))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with <scenario>.json, the hub's requests in requests.json, and what the hub published."""
    path = tmp_path_factory.mktemp("hub")
    with fake_hub() as hub:
        publish(hub, path)
        places = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(path / "home"),
            "HF_TOKEN": "secret",
            "HF_HUB_DISABLE_XET": "1",
        }
        environment = {**os.environ, **places, "PYTHONPATH": str(TESTS)}
        environment.pop("HF_HUB_OFFLINE", None)
        arguments = [sys.executable, "-c", DRIVER, str(path), json.dumps(SCENARIOS)]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        (path / "requests.json").write_text(json.dumps(hub.requests))
    return path


def answer(root: Path, scenario: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / f"{scenario}.json").read_text())
    return document


def test_a_model_is_pinned_to_its_commit(root: Path) -> None:
    plan = answer(root, "smallest")["result"]["plan"]
    assert (plan["model"]["source"], plan["model"]["revision"]) == ("hf://org/tiny", MODEL_COMMIT)
    assert plan["model"]["digest"].startswith("sha256:")


def test_only_weights_configuration_tokenizer_and_templates_are_downloaded(root: Path) -> None:
    want = {"chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"}
    assert set(answer(root, "smallest")["files"]) - {".cache"} == {*want, "tokenizer.json", "tokenizer_config.json"}


def test_a_dataset_is_read_at_its_commit(root: Path) -> None:
    report = answer(root, "smallest")["result"]["dataset"]
    assert (report["trainRows"], report["evalRows"], report["format"]) == (18, 2, "prompt-completion")
    paths = [path for _, path, _ in json.loads((root / "requests.json").read_text())]
    assert any(f"/datasets/org/data/resolve/{DATA_COMMIT}/train.jsonl" in path for path in paths)


def test_the_token_of_the_environment_is_used(root: Path) -> None:
    requests = json.loads((root / "requests.json").read_text())
    assert {token for _, path, token in requests if "org/tiny" in path} == {"Bearer secret"}


def test_a_second_call_gives_the_same_result(root: Path) -> None:
    found, want = (answer(root, name)["result"] for name in ("again", "smallest"))
    for result in (found, want):  # the speed of the machine is measured anew
        del result["plan"]["estimatedSeconds"], result["message"]
    assert found == want


def test_a_given_commit_is_kept(root: Path) -> None:
    assert answer(root, "pinned")["result"]["plan"]["model"]["revision"] == MODEL_COMMIT


def test_an_adapter_is_continued_at_its_commit_and_nothing_else_of_it_is_downloaded(root: Path) -> None:
    method = answer(root, "continued")["result"]["plan"]["method"]
    assert (method["continuedFrom"], method["continuedDigest"][:7]) == ("hf://org/adapter", "sha256:")
    paths = {path for _, path, _ in json.loads((root / "requests.json").read_text()) if "org/adapter/resolve" in path}
    files = ("adapter_config.json", "adapter_model.safetensors")
    assert {path.partition("?")[0] for path in paths} == {
        f"/org/adapter/resolve/{ADAPTER_COMMIT}/{name}" for name in files
    }


def test_a_slice_of_a_hub_dataset_is_taken(root: Path) -> None:
    report = answer(root, "sliced")["result"]["dataset"]
    assert report["trainRows"] + report["evalRows"] == 10


@pytest.mark.parametrize(
    ("scenario", "want_error", "want"),
    [
        ("absent", "SourceNotFoundError", "hf://org/absent does not exist on the hub, or is private"),
        ("gated", "SourceNotFoundError", "hf://org/gated is gated: accept its terms"),
        ("no revision", "SourceNotFoundError", "hf://org/tiny has no such revision"),
        ("no organisation", "InvalidSpecError", "hf://tiny must look like hf://org/name"),
        ("pickled", "InvalidModelError", "pytorch_model.bin is refused: such files can run code when read"),
        ("gguf", "InvalidModelError", "hf://org/gguf holds GGUF files only; copy one into a claim"),
        ("no model", "SourceNotFoundError", "hf://org/notes holds no model (*.safetensors); it holds README.md"),
        (
            "another rank",
            "InvalidSpecError",
            "hf://org/adapter does not go with this job: method.rank is 4, its own",
        ),
        ("no adapter", "SourceNotFoundError", "hf://org/notes holds no adapter (adapter_config.json"),
        ("no data", "SourceNotFoundError", "hf://org/absent does not exist on the hub"),
        ("no split", "SourceNotFoundError", "hf://org/data: "),
        ("bad rows", "InvalidDataError", "hf://org/bad: 1 of 21 rows cannot be used: row 21: completion is empty"),
    ],
)
def test_what_cannot_be_used_says_why(root: Path, scenario: str, want_error: str, want: str) -> None:
    found = answer(root, scenario)
    assert found.get("error") == want_error, found
    assert want in found["message"]


def test_code_that_comes_with_a_dataset_is_never_run(root: Path) -> None:
    assert "error" in answer(root, "script")
    assert not (root / "canary").exists()


def test_a_hub_that_does_not_answer_is_unavailable_and_not_absent(tmp_path: Path) -> None:
    driver = (
        "import sys\nfrom trainer_requests import make_run\nfrom pathlib import Path\n"
        "from finetune_trainer.errors import SourceUnavailableError\n"
        "from finetune_trainer.models.sources import bring_model\n"
        "run = make_run(Path(sys.argv[1]), model={'source': 'hf://org/tiny'})\n"
        "try: bring_model(run)\nexcept SourceUnavailableError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(TESTS)}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", driver, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("hf://org/tiny: the hub ")
