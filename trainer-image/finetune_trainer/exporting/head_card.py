"""What the model card of a head of classes says in place of a language model's: its labels and how it is used. Pure."""

from collections.abc import Callable
from typing import Any

PIPELINES = {"classification": "text-classification", "token-classification": "token-classification"}
"""Name of transformers' pipeline by task."""
_CLASSES = {
    "classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
}


def head_labels(report: dict[str, Any]) -> str:
    """The labels with how often the train rows have them."""
    data = report.get("dataset") or {}
    labels, total = data.get("labels", []), data.get("labelCount", 0)
    shown = f" (the {len(labels)} most frequent)" if total > len(labels) else ""
    told = "at the last token of a text" if data.get("format") == "labelled-text" else "at the first token of a word"
    lines = [f"## {total} labels{shown}\n", f"Told {told}.\n", "| label | in the train rows |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{entry['label']}` | {entry['count']} |" for entry in labels)])


def head_usage(artifact: dict[str, Any], base: str, report: dict[str, Any]) -> str:
    """How to use an artefact of the report's job."""
    return _USAGE[artifact["format"]](artifact, base, report)


def _use_peft(artifact: dict[str, Any], base: str, report: dict[str, Any]) -> str:
    name, labels = artifact["name"], (report.get("dataset") or {}).get("labelCount", 2)
    kind = _CLASSES[report["spec"]["task"]]
    return f"""## Using `{name}` (adapter with its head)

```python
from peft import PeftModel
from transformers import {kind}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
base = {kind}.from_pretrained(
    "{base}", num_labels={labels}, pad_token_id=tokenizer.pad_token_id, dtype="float32"
)
model = PeftModel.from_pretrained(base, "{name}")
```"""


def _use_safetensors(artifact: dict[str, Any], _base: str, report: dict[str, Any]) -> str:
    name, pipeline = artifact["name"], PIPELINES[report["spec"]["task"]]
    return f"""## Using `{name}` (whole model)

```python
from transformers import pipeline

classify = pipeline("{pipeline}", model="{name}")
print(classify("A text."))
```"""


def _use_onnx(artifact: dict[str, Any], _base: str, report: dict[str, Any]) -> str:
    name = artifact["name"]
    words = " of each token" if report["spec"]["task"] == "token-classification" else ""
    return f"""## Using `{name}` (ONNX, {artifact.get("precision", "fp32")}, CPU)

```sh
pip install onnxruntime tokenizers
```

```python
import json
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

names = json.load(open("{name}/config.json"))["id2label"]
ids = Tokenizer.from_file("{name}/tokenizer.json").encode("A text.").ids
session = onnxruntime.InferenceSession("{name}/model.onnx")
feed = {{"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), dtype=np.int64)}}
logits = session.run(["logits"], feed)[0][0]  # of each label{words}
print([names[str(i)] for i in np.atleast_1d(logits.argmax(-1))])
```"""


_USAGE: dict[str, Callable[[dict[str, Any], str, dict[str, Any]], str]] = {
    "peft": _use_peft,
    "safetensors": _use_safetensors,
    "onnx": _use_onnx,
}
