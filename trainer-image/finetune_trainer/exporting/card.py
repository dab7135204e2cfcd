"""README.md beside the artefacts: what the model is, what it scored, how to use each artefact. Pure text."""

from collections.abc import Callable
from typing import Any

from finetune_api.status import PlannedMethod
from finetune_trainer.exporting.adapter_serving import serve_adapter, serve_adapters
from finetune_trainer.exporting.head_card import PIPELINES, head_labels, head_usage


def model_card(report: dict[str, Any], base: str) -> str:
    """The model card as Markdown, from the content of report.json and the name of the base model."""
    task = report["spec"]["task"]
    parts = [_front_matter(base, task), _introduction(report, base), _evaluation(report), _artifacts(report)]
    if task in PIPELINES:
        parts += [head_labels(report), *(head_usage(artifact, base, report) for artifact in report["artifacts"])]
        return "\n\n".join(part for part in parts if part) + "\n"
    parts += [_usage(artifact, base, report) for artifact in report["artifacts"] if artifact["format"] in USAGE]
    parts.append(serve_adapters(base, report))
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(base: str, task: str) -> str:
    pipeline = PIPELINES.get(task, "text-generation")
    return f"---\nbase_model: {base}\npipeline_tag: {pipeline}\ntags: [fine-tuned]\n---"


def _introduction(report: dict[str, Any], base: str) -> str:
    plan, job, data = report["plan"], report["job"], report.get("dataset") or {}
    method, training = plan["method"], plan["training"]
    how = f"{method['type']} of rank {method['rank']}" if method.get("rank") else method["type"]
    steps = f"{training['totalSteps']} steps of {training['batchSize']} rows"
    if adapters := plan.get("adapters"):
        how = f"{len(adapters)} adapters of type {method['type']}, each on rows of its own,"
        steps = ", ".join(f"`{a['name']}` {a['totalSteps']} steps of {a['batchSize']} rows" for a in adapters)
    if continued := method.get("continuedFrom"):
        how += f", going on with the adapter `{continued}`,"
    how += f" ({training['objective']})" if training["objective"] != "sft" else ""
    rows = f" on {data['trainRows']} rows" if data else ""
    return (
        f"# {job['name']}\n\n`{base}` tuned with {how}{rows}: {steps}, learning rate {training['learningRate']}, "
        f"{training['precision']}.\n"
        "Everything about the run (plan, data, curves, digests, library versions) is in `report.json`."
    )


def _evaluation(report: dict[str, Any]) -> str:
    evaluation = report.get("evaluation")
    if not evaluation:
        return ""
    adapters = evaluation.get("adapters", [])
    if not adapters:
        start = PlannedMethod.model_validate(report["plan"]["method"]).start
        return _evaluation_table("", evaluation, report.get("comparison"), start)
    told = report["adapters"]
    tables = (_evaluation_table(f" of `{a['name']}`", a, told[a["name"]].get("comparison")) for a in adapters)
    return "\n\n".join(tables)


def _evaluation_table(
    of: str, evaluation: dict[str, Any], comparison: dict[str, Any] | None, start: str = "base model"
) -> str:
    intervals = {d["metric"]: d for d in (comparison or {}).get("differences", [])}
    lines = [
        f"## Evaluation{of} on {evaluation['rows']} held-out rows\n",
        f"| metric | {start} | this model | difference, 95 % interval |",
        "|---|---|---|---|",
    ]
    for metric, value in evaluation["tuned"].items():
        before = evaluation.get("baseline", {}).get(metric, "")
        lines.append(f"| {metric} | {before} | {value} | {_interval(intervals.get(metric))} |")
    return "\n".join(lines)


def _interval(found: dict[str, Any] | None) -> str:
    if not found or found["low"] is None:
        return ""
    return f"{found['low']:+.4g} to {found['high']:+.4g} ({found['verdict']})"


def _artifacts(report: dict[str, Any]) -> str:
    lines = ["## Artefacts\n", "| folder | format | size | KL to the tuned model | same top token | tokens/s |"]
    lines.append("|---|---|---|---|---|---|")
    for artifact in report["artifacts"]:
        parity = artifact.get("parity") or {}
        what = " ".join(part for part in (artifact["format"], artifact.get("precision")) if part)
        size = f"{artifact['sizeBytes'] / 1e6:.1f} MB"
        numbers = (parity.get("kl", ""), parity.get("top1", ""), artifact.get("tokensPerSecond", ""))
        lines.append(f"| `{artifact['name']}` | {what} | {size} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def _usage(artifact: dict[str, Any], base: str, report: dict[str, Any]) -> str:
    text = USAGE[artifact["format"]](artifact, base)
    return f"{text}\n\n{serve_adapter(artifact['name'], base, report)}" if artifact["format"] == "peft" else text


def _use_peft(artifact: dict[str, Any], base: str) -> str:
    name = artifact["name"]
    return f"""## Using `{name}` (adapter)

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```"""


def _use_safetensors(artifact: dict[str, Any], _base: str) -> str:
    name = artifact["name"]
    return f"""## Using `{name}` (whole model)

```python
from transformers import pipeline

chat = pipeline("text-generation", model="{name}")
print(chat([{{"role": "user", "content": "Hello"}}], max_new_tokens=64)[0]["generated_text"][-1]["content"])
```

```sh
vllm serve ./{name}
```"""


def _use_onnx(artifact: dict[str, Any], _base: str) -> str:
    name = artifact["name"]
    return f"""## Using `{name}` (ONNX, {artifact.get("precision", "fp32")}, CPU)

```sh
pip install onnxruntime-genai
```

```python
import json
import onnxruntime_genai as og

model = og.Model("{name}")
tokenizer = og.Tokenizer(model)
prompt = tokenizer.apply_chat_template(json.dumps([{{"role": "user", "content": "Hello"}}]), add_generation_prompt=True)
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=256, do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(tokenizer.encode(prompt))
stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    print(stream.decode(generator.get_next_tokens()[0]), end="", flush=True)
```"""


USAGE: dict[str, Callable[[dict[str, Any], str], str]] = {
    "peft": _use_peft,
    "safetensors": _use_safetensors,
    "onnx": _use_onnx,
}
"""How to use an artefact, by format."""
