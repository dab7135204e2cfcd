"""FineTuneJob documents for tests of the contract: what is accepted, what is refused, and with which words."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_api.tasks import TASK_METRICS

Document = dict[str, Any]
REMOVED = object()
"""As a change: the field is taken away."""

PREFERENCE = {"spec.task": "preference", "spec.training.objective": "dpo"}


@dataclass(frozen=True)
class Case:
    """The smallest job with changes (dotted path -> value), and a part of the API server's message if it is refused."""

    title: str
    changes: Mapping[str, Any]
    want_message: str = ""

    def document(self) -> Document:
        return changed(smallest(), self.changes)

    def __str__(self) -> str:
        return self.title.replace(" ", "_")


def smallest(name: str = "support-bot") -> Document:
    """A job that says only what has no default."""
    return {
        "apiVersion": "slmops.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
            "dataset": {"train": {"source": "pvc://datasets/support/train.jsonl"}},
        },
    }


def everything(name: str = "everything") -> Document:
    """A job that sets every field but training.maxSteps, which training.epochs excludes, method.adapters and
    method.continueFrom."""
    secret = {"secretRef": "hf-token"}
    return {
        "apiVersion": "slmops.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "task": "extraction",
            "model": {
                "source": "hf://org/name",
                "revision": "0123456789abcdef0123456789abcdef01234567",
                "credentials": secret,
                "trustRemoteCode": False,
                "attention": "sdpa",
                "chatTemplate": "{% for message in messages %}{{ message.content }}{% endfor %}",
            },
            "dataset": {
                "train": {"source": "s3://bucket/train", "split": "train[:90%]", "credentials": secret},
                "eval": {"source": "hf://org/data", "split": "train[90%:]", "credentials": secret},
                "evalFraction": 0.2,
                "format": "prompt-completion",
                "columns": {"text": "body", "label": "topic"},
                "template": "### Question: {question}\n### Answer: {answer}",
                "tools": True,
                "lossOn": "completion",
                "maxLength": 2048,
                "overLength": "drop",
                "maxBadRows": 3,
                "packing": True,
                "schema": {
                    "type": "object",
                    "properties": {"price": {"type": ["number", "null"], "enum": [1.5, None]}},
                },
                "shuffleSeed": 7,
            },
            "method": {
                "type": "qlora",
                "rank": 8,
                "alpha": 16.5,
                "dropout": 0.1,
                "targetModules": ["q_proj", "v_proj"],
                "modulesToSave": ["lm_head"],
                "initialization": "loftq",
                "rankStabilized": True,
                "quantization": {"bits": 4, "type": "nf4", "doubleQuant": True},
            },
            "training": {
                "objective": "sft",
                "beta": 0.2,
                "epochs": 1.5,
                "batchSize": 32,
                "microBatchSize": 4,
                "learningRate": 0.0002,
                "scheduler": "linear",
                "warmupRatio": 0.1,
                "weightDecay": 0.01,
                "optimizer": "adamw",
                "maxGradNorm": 0.5,
                "precision": "bf16",
                "gradientCheckpointing": False,
                "loss": {"type": "focal", "gamma": 2, "smoothing": 0.1},
                "logEvery": 5,
                "evalEvery": 50,
                "checkpointEvery": 100,
                "keepCheckpoints": 3,
                "earlyStopping": {"metric": "eval_loss", "patience": 2, "minDelta": 0.01},
                "loadBest": False,
                "seed": 4294967295,
                "extra": {"adam_beta2": 0.95, "nested": {"list": [1, "two", None]}},
            },
            "distributed": {
                "strategy": "fsdp",
                "zeroStage": 2,
                "offload": "optimizer",
                "nodes": 2,
                "processesPerNode": 8,
                "minNodes": 1,
            },
            "resources": {
                "accelerator": {"resource": "nvidia.com/gpu", "count": 8},
                "cpu": "32",
                "memory": "256Gi",
                "nodeSelector": {"topology.kubernetes.io/zone": "a"},
                "tolerations": [{"key": "gpu", "operator": "Equal", "value": "true", "effect": "NoSchedule"}],
                "priorityClassName": "batch",
            },
            "evaluation": {
                "metrics": ["f1", "json-valid"],
                "baseline": True,
                "maxRows": 100,
                "generation": {"maxNewTokens": 64},
                "gates": [
                    {"metric": "f1", "atLeast": 0.8},
                    {"metric": "eval_loss", "atMost": 2},
                    {"metric": "exact-match", "improvesBaselineBy": 0.05},
                ],
            },
            "exports": [
                {
                    "name": "cpu-int4",
                    "format": "onnx",
                    "device": "cpu",
                    "provider": "CPUExecutionProvider",
                    "precision": "int4",
                    "parity": {"maxAbs": 1.5, "maxKl": 0.1, "minTop1": 0.9, "maxPerplexityRatio": 1.1},
                },
                {"name": "adapter", "format": "peft"},
            ],
            "output": {
                "destination": "s3://models/support-bot",
                "credentials": secret,
                "workspace": {"size": "50Gi", "storageClassName": "fast", "claimName": "scratch"},
            },
            "reporting": {
                "tensorboard": False,
                "mlflow": {"trackingUri": "http://mlflow:5000", "experiment": "support", "secretRef": "mlflow-key"},
                "wandb": {"project": "support", "secretRef": "wandb-key", "baseUrl": "https://wandb.example"},
            },
            "policy": {
                "suspend": True,
                "activeDeadlineSeconds": 86400,
                "retries": 5,
                "hangTimeoutSeconds": 600,
                "ttlSecondsAfterFinished": 3600,
                "cost": {"perHour": "2.50", "currency": "EUR", "budget": "20"},
            },
            "dryRun": True,
        },
    }


def everything_of_adapters(name: str = "everything-of-adapters") -> Document:
    """The same with method.adapters, which dataset.train and dataset.eval exclude."""
    rows = {"source": "pvc://datasets/billing", "split": "train", "credentials": {"secretRef": "hf-token"}}
    adapter = {"name": "billing", "dataset": rows, "eval": {**rows, "split": "test"}, "rank": 4, "alpha": 8}
    changes = {"spec.dataset.train": REMOVED, "spec.dataset.eval": REMOVED, "spec.method.adapters": [adapter]}
    return changed(everything(name), changes)


def everything_continued(name: str = "everything-continued") -> Document:
    """The same with method.continueFrom, which a start of the job's own excludes."""
    source = {"source": "hf://org/adapter", "revision": "v1", "credentials": {"secretRef": "hf-token"}}
    changes = {"spec.method.initialization": "default", "spec.method.continueFrom": source}
    return changed(everything(name), changes)


def complete() -> dict[str, Document]:
    """Jobs that together set every field but training.maxSteps."""
    return {"one": everything(), "adapters": everything_of_adapters(), "continued": everything_continued()}


def changed(document: Document, changes: Mapping[str, Any]) -> Document:
    """A copy of the document with the changes; objects on the way to a field are made."""
    result = copy.deepcopy(document)
    for path, value in changes.items():
        *parents, leaf = path.split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
        if value is REMOVED:
            target.pop(leaf, None)
        else:
            target[leaf] = copy.deepcopy(value)
    return result


def _gate(metric: str, **bar: Any) -> dict[str, Any]:
    return {"metric": metric, **(bar or {"atLeast": 0})}


@dataclass(frozen=True)
class _Task:
    """The least that a job of this task says beside the task."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)


_TASKS = tuple(_Task(task, {"spec.task": task} | (PREFERENCE if task == "preference" else {})) for task in TASK_METRICS)
_METHOD_FULL = {"spec.method.type": "full"}
_METHOD_QLORA = {"spec.method.type": "qlora"}
_METHOD_ADAPTER = {"spec.method.type": "adapter"}
_ROWS = {"source": "pvc://datasets/a"}
_TWO_NODES = {"spec.distributed.nodes": 2}
_NO_ROWS = {"spec.dataset.evalFraction": 0}


def _adapters(*adapters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A job with these adapters, or two of them with rows of their own."""
    some = [{"name": name, "dataset": _ROWS} for name in ("billing", "returns")]
    return {"spec.dataset.train": REMOVED, "spec.method.adapters": [*adapters] or some, **changes}


REFUSED = (
    Case("no model", {"spec.model": REMOVED}, "spec.model: Required value"),
    Case("no dataset", {"spec.dataset": REMOVED}, "dataset.train is missing: name the rows to train on"),
    Case("null model", {"spec.model": None}, "spec.model: Required value"),
    Case("no spec", {"spec": REMOVED}, "spec: Required value"),
    Case("no train rows", {"spec.dataset.train": REMOVED}, "dataset.train is missing: name the rows to train on"),
    Case(
        "adapters beside the rows of one",
        {"spec.method.adapters": [{"name": "a", "dataset": _ROWS}]},
        "dataset.train and dataset.eval are the rows of one adapter",
    ),
    Case(
        "adapters beside held-out rows of one",
        _adapters(**{"spec.dataset.eval": _ROWS}),
        "dataset.train and dataset.eval are the rows of one adapter",
    ),
    Case("an adapter without rows", _adapters({"name": "a"}), "spec.method.adapters[0].dataset: Required value"),
    Case(
        "a rank of one ia3 adapter",
        _adapters({"name": "a", "dataset": _ROWS, "rank": 16}, **{"spec.method.type": "adapter"}),
        "method.adapters[].rank and alpha belong to a low-rank update",
    ),
    Case(
        "more artefacts of adapters than fit",
        _adapters(
            *({"name": f"a{i}", "dataset": _ROWS} for i in range(9)),
            **{"spec.exports": [{"name": "a", "format": "peft"}, {"name": "b", "format": "safetensors"}]},
        ),
        "exports are made of each of method.adapters, and there may be 16 artefacts in all",
    ),
    Case(
        "a gate on adapters of which one has no held-out rows",
        _adapters(
            {"name": "a", "dataset": _ROWS, "eval": _ROWS},
            {"name": "b", "dataset": _ROWS},
            **(_NO_ROWS | {"spec.evaluation.gates": [{"metric": "eval_loss", "atMost": 1}]}),
        ),
        "set dataset.eval or dataset.evalFraction above 0",
    ),
    Case("a misspelt field", {"spec.training.learning_rates": 1}, 'unknown field "spec.training.learning_rates"'),
    Case("an unknown task", {"spec.task": "translation"}, 'spec.task: Unsupported value: "translation"'),
    Case("an unknown scheme", {"spec.model.source": "ftp://host/model"}, "model.source must look like hf://org/name"),
    Case("an absolute path", {"spec.model.source": "/models/llama"}, "model.source must look like hf://org/name"),
    Case(
        "a way out of the claim", {"spec.model.source": "pvc://claim/../x"}, "'..', empty parts and spaces are refused"
    ),
    Case("an empty part", {"spec.model.source": "pvc://claim//x"}, "'..', empty parts and spaces are refused"),
    Case("a space in a source", {"spec.dataset.train.source": "hf://a b"}, "dataset source must look like"),
    Case("a line break in a source", {"spec.model.source": "hf://org/name\n"}, "model.source must look like"),
    Case("a data source of a job", {"spec.dataset.train.source": "job://a"}, "dataset source must look like"),
    Case("a long source", {"spec.model.source": f"hf://{'a' * 600}"}, "spec.model.source: Too long"),
    Case("a bad revision", {"spec.model.revision": "main branch"}, "a revision must be a commit, a tag or a branch"),
    Case(
        "a secret of another namespace",
        {"spec.model.credentials": {"secretRef": "other/token"}},
        "must be the name of an object, without a namespace",
    ),
    Case("an empty secret name", {"spec.output.credentials": {"secretRef": ""}}, "spec.output.credentials.secretRef"),
    Case("an open split", {"spec.dataset.train.split": "train["}, "split must be a name with an optional slice"),
    Case("a large eval fraction", {"spec.dataset.evalFraction": 0.9}, "spec.dataset.evalFraction"),
    Case("an eval fraction in words", {"spec.dataset.evalFraction": "a tenth"}, "must be of type number"),
    Case("an unknown format", {"spec.dataset.format": "parquet"}, 'spec.dataset.format: Unsupported value: "parquet"'),
    Case("no length", {"spec.dataset.maxLength": 0}, "must be a whole number of at least 1, or auto"),
    Case("a length in words", {"spec.dataset.maxLength": "long"}, "must be a whole number of at least 1, or auto"),
    Case("half a token", {"spec.dataset.maxLength": 1.5}, "spec.dataset.maxLength"),
    Case("fewer than no bad rows", {"spec.dataset.maxBadRows": -1}, "greater than or equal to 0"),
    Case("packing yes", {"spec.dataset.packing": "yes"}, 'supported values: "true", "false", "auto"'),
    Case("many columns", {"spec.dataset.columns": {f"c{i}": "x" for i in range(33)}}, "spec.dataset.columns: Too many"),
    Case("rank 0", {"spec.method.rank": 0}, "spec.method.rank"),
    Case("a large rank", {"spec.method.rank": 2048}, "less than or equal to 1024"),
    Case("alpha 0", {"spec.method.alpha": 0}, "spec.method.alpha"),
    Case("dropout 1", {"spec.method.dropout": 1}, "spec.method.dropout"),
    Case("no target modules", {"spec.method.targetModules": []}, "spec.method.targetModules"),
    Case("many target modules", {"spec.method.targetModules": ["q"] * 65}, "spec.method.targetModules: Too many"),
    Case(
        "quantization of lora",
        {"spec.method.quantization": {"bits": 4}},
        "method.quantization belongs to method.type: qlora; remove it or choose qlora",
    ),
    Case(
        "adapters of full tuning",
        _METHOD_FULL | _adapters(),
        "method.adapters cannot be used with method.type: full",
    ),
    Case(
        "initialization of full tuning",
        _METHOD_FULL | {"spec.method.initialization": "pissa"},
        "method.initialization and method.modulesToSave belong to an adapter",
    ),
    Case(
        "modules to save of full tuning",
        _METHOD_FULL | {"spec.method.modulesToSave": ["lm_head"]},
        "method.initialization and method.modulesToSave belong to an adapter",
    ),
    Case(
        "pissa on a quantized base",
        _METHOD_QLORA | {"spec.method.initialization": "pissa"},
        "pissa and olora need an unquantized base",
    ),
    Case(
        "loftq without quantization",
        {"spec.method.initialization": "loftq"},
        "method.initialization: loftq makes up for quantization",
    ),
    Case(
        "8 bits of nf4",
        _METHOD_QLORA | {"spec.method.quantization": {"bits": 8}},
        "method.quantization: 8 bits go with type: int8",
    ),
    Case(
        "a rank of ia3",
        _METHOD_ADAPTER | {"spec.method.rank": 8},
        "method.rank, alpha, dropout and initialization belong to a low-rank update",
    ),
    Case(
        "rank-stabilized ia3",
        _METHOD_ADAPTER | {"spec.method.rankStabilized": True},
        "method.rankStabilized belongs to lora, qlora and dora",
    ),
    Case(
        "a continued adapter of full tuning",
        _METHOD_FULL | {"spec.method.continueFrom": {"source": "pvc://m/a"}},
        "method.continueFrom gives one adapter its start values",
    ),
    Case(
        "a continued adapter with a start of its own",
        {"spec.method.continueFrom": {"source": "pvc://m/a"}, "spec.method.initialization": "pissa"},
        "method.continueFrom gives one adapter its start values",
    ),
    Case(
        "several continued adapters",
        _adapters(**{"spec.method.continueFrom": {"source": "pvc://m/a"}}),
        "method.continueFrom gives one adapter its start values",
    ),
    Case(
        "model and adapter of jobs",
        {"spec.model.source": "job://first", "spec.method.continueFrom": {"source": "job://second"}},
        "model.source and method.continueFrom.source both name a job",
    ),
    Case(
        "a continued adapter in a registry",
        {"spec.method.continueFrom": {"source": "oci://registry/a"}},
        "method.continueFrom.source must look like",
    ),
    Case(
        "adapters of one name",
        _adapters({"name": "a", "dataset": _ROWS}, {"name": "a", "dataset": _ROWS}),
        "method.adapters must have different names",
    ),
    Case("learning rate 0", {"spec.training.learningRate": 0}, "spec.training.learningRate"),
    Case("learning rate 0 as text", {"spec.training.learningRate": "0.0"}, "spec.training.learningRate"),
    Case("a negative learning rate", {"spec.training.learningRate": -1e-4}, "spec.training.learningRate"),
    Case("a learning rate in words", {"spec.training.learningRate": "fast"}, "spec.training.learningRate"),
    Case(
        "epochs and steps",
        {"spec.training.epochs": 1, "spec.training.maxSteps": 10},
        "training.epochs and training.maxSteps exclude each other; keep one",
    ),
    Case("one checkpoint", {"spec.training.keepCheckpoints": 1}, "greater than or equal to 2"),
    Case("a negative seed", {"spec.training.seed": -1}, "spec.training.seed"),
    Case("a seed beyond 32 bits", {"spec.training.seed": 2**32}, "spec.training.seed"),
    Case("a loss of two words", {"spec.training.loss.type": "Focal Loss"}, "training.loss.type must be a name"),
    Case("many extras", {"spec.training.extra": {f"a{i}": 1 for i in range(65)}}, "spec.training.extra: Too many"),
    Case(
        "dpo on a chat task",
        {"spec.training.objective": "dpo"},
        "training.objective: dpo, orpo and kto belong to task: preference",
    ),
    Case("a preference task without its objective", {"spec.task": "preference"}, "task: preference needs one of them"),
    Case(
        "labels for a chat",
        {"spec.dataset.format": "labelled-text"},
        "dataset.format: labelled-text and task: classification belong together",
    ),
    Case(
        "tags without words",
        {"spec.task": "token-classification", "spec.dataset.format": "text"},
        "dataset.format: tagged-tokens and task: token-classification belong together",
    ),
    *(
        Case(
            f"{field} of a classifier",
            {"spec.task": "classification", f"spec.{field}": value},
            "dataset.lossOn, dataset.tools and model.chatTemplate are about conversations",
        )
        for field, value in (("dataset.lossOn", "all"), ("dataset.tools", True), ("model.chatTemplate", "{{ text }}"))
    ),
    Case(
        "a schema of a chat",
        {"spec.dataset.schema": {}},
        "dataset.schema judges the JSON answers of task: extraction",
    ),
    Case(
        "a schema that is text",
        {"spec.task": "extraction", "spec.dataset.schema": "object"},
        "spec.dataset.schema",
    ),
    Case(
        "extraction without answers",
        {"spec.task": "extraction", "spec.dataset.format": "text"},
        "task: extraction needs answers",
    ),
    Case(
        "half an extraction",
        {"spec.task": "extraction", "spec.dataset.overLength": "truncate"},
        "dataset.overLength: truncate would leave half a JSON value",
    ),
    Case(
        "a template of words",
        {"spec.task": "token-classification", "spec.dataset.template": "{tokens}"},
        "dataset.template cannot build rows of task: token-classification",
    ),
    Case(
        "more nodes at least than at most",
        _TWO_NODES | {"spec.distributed.minNodes": 3},
        "distributed.minNodes must not exceed distributed.nodes",
    ),
    Case(
        "two nodes with no strategy",
        _TWO_NODES | {"spec.distributed.strategy": "none"},
        "distributed.strategy: none runs in one pod",
    ),
    Case(
        "zero 3 on a quantized base",
        _METHOD_QLORA | {"spec.distributed.strategy": "deepspeed"},
        "distributed.zeroStage: 3 cannot shard the quantized base",
    ),
    Case("an accelerator without domain", {"spec.resources.accelerator.resource": "gpu"}, "as in nvidia.com/gpu"),
    Case("lots of memory", {"spec.resources.memory": "lots"}, "must be a Kubernetes quantity"),
    Case("negative memory", {"spec.resources.memory": -1}, "must be a Kubernetes quantity"),
    Case("a claim with capitals", {"spec.model.source": "pvc://Models/llama"}, "model.source must look like"),
    Case("a claim elsewhere", {"spec.output.workspace.claimName": "other/claim"}, "must be the name of an object"),
    Case("a storage class with a space", {"spec.output.workspace.storageClassName": "a b"}, "must be the name of"),
    Case("a priority class with a slash", {"spec.resources.priorityClassName": "a/b"}, "must be the name of an object"),
    Case("a node label of two words", {"spec.resources.nodeSelector": {"zone": "a b"}}, "must be a label value"),
    Case(
        "a node label without a name",
        {"spec.resources.nodeSelector": {"topology.kubernetes.io/": "a"}},
        "resources.nodeSelector must have label keys",
    ),
    Case("a taint of two words", {"spec.resources.tolerations": [{"key": "a b"}]}, "must be a taint key"),
    Case("a toleration of nothing", {"spec.resources.tolerations": [{}]}, "a toleration without key needs"),
    Case(
        "a toleration with a value that is not compared",
        {"spec.resources.tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "a toleration with operator: Exists has no value",
    ),
    Case("a metric that is not auto", {"spec.evaluation.metrics": "accuracy"}, "spec.evaluation.metrics"),
    Case("a gate without a bar", {"spec.evaluation.gates": [{"metric": "eval_loss"}]}, "a gate needs exactly one of"),
    Case(
        "a gate with two bars",
        {"spec.evaluation.gates": [_gate("eval_loss", atLeast=0, atMost=1)]},
        "a gate needs exactly one of",
    ),
    Case(
        "an improvement over no baseline",
        {"spec.evaluation.baseline": False, "spec.evaluation.gates": [_gate("eval_loss", improvesBaselineBy=0.1)]},
        "a gate with improvesBaselineBy needs evaluation.baseline: true",
    ),
    Case(
        "a gate without rows",
        _NO_ROWS | {"spec.evaluation.gates": [_gate("eval_loss")]},
        "set dataset.eval or dataset.evalFraction above 0",
    ),
    *(
        Case(
            f"a gate on a metric that {task.name} does not have",
            task.changes | {"spec.evaluation.gates": [_gate("eval_loss"), _gate("wit")]},
            f"evaluation.gates names a metric that task: {task.name} does not have; choose from eval_loss",
        )
        for task in _TASKS
    ),
    Case(
        "a loss of tokens for preferences",
        PREFERENCE | {"spec.training.loss": {"type": "focal"}},
        "training.loss is a loss of single tokens",
    ),
    Case(
        "messages as preferences",
        PREFERENCE | {"spec.dataset.format": "messages"},
        "dataset.format: preference belongs to task: preference",
    ),
    Case(
        "preferences for a chat",
        {"spec.dataset.format": "preference"},
        "dataset.format: preference belongs to task: preference",
    ),
    Case(
        "pretraining of a chat",
        {"spec.training.objective": "pretrain"},
        "training.objective: pretrain learns plain text: set task: completion",
    ),
    Case(
        "pretraining on messages",
        {"spec.task": "completion", "spec.training.objective": "pretrain", "spec.dataset.format": "messages"},
        "training.objective: pretrain learns plain text: set task: completion",
    ),
    *(
        Case(
            f"{adapter_format} of full tuning",
            _METHOD_FULL | {"spec.exports": [{"name": "a", "format": adapter_format}]},
            "exports: format peft and onnx-adapter need an adapter",
        )
        for adapter_format in ("peft", "onnx-adapter")
    ),
    Case(
        "exports of one name",
        {"spec.exports": [{"name": "a", "format": "peft"}, {"name": "a", "format": "safetensors"}]},
        "exports must have different names",
    ),
    Case("an export without a name", {"spec.exports": [{"format": "peft"}]}, "spec.exports[0].name: Required value"),
    Case(
        "an export of two words",
        {"spec.exports": [{"name": "My Model", "format": "peft"}]},
        "must be lower-case letters, digits and '-'",
    ),
    Case(
        "an unknown provider",
        {"spec.exports": [{"name": "a", "format": "onnx", "provider": "cuda"}]},
        "provider must be auto or an ONNX Runtime execution provider",
    ),
    Case("output to a job", {"spec.output.destination": "job://other"}, "output.destination must look like pvc://"),
    Case(
        "mlflow at a file",
        {"spec.reporting.mlflow": {"trackingUri": "file:///tmp"}},
        "reporting needs the address of a server",
    ),
    Case("a price with a comma", {"spec.policy.cost": {"perHour": "2,50"}}, "must be a decimal number in quotes"),
    Case("a price without quotes", {"spec.policy.cost": {"perHour": 2}}, "spec.policy.cost.perHour"),
    Case("a small currency", {"spec.policy.cost": {"perHour": "2", "currency": "usd"}}, "must be an ISO 4217 code"),
    Case("a short hang", {"spec.policy.hangTimeoutSeconds": 1}, "greater than or equal to 10"),
)
"""Refused by the API server and by Python."""

ACCEPTED = (
    Case("the smallest job", {}),
    Case("a long name with dots", {"metadata.name": f"{'a' * 200}.b"}),
    Case("nulls for what is optional", {"spec.distributed.minNodes": None, "spec.training.epochs": None}),
    Case("a folder", {"spec.model.source": "pvc://models/smollm2/"}),
    Case("the output of another job", {"spec.model.source": "job://first"}),
    Case("a registry with port and tag", {"spec.model.source": "oci://registry:5000/models/a:v1"}),
    Case("rows by number", {"spec.dataset.train.split": "train[:4096]"}),
    Case("a length", {"spec.dataset.maxLength": 512}),
    Case("a length as text", {"spec.dataset.maxLength": "512"}),
    *(Case(f"packing {value}", {"spec.dataset.packing": value}) for value in (True, False, "auto")),
    *(
        Case(f"learning rate {value!r}", {"spec.training.learningRate": value})
        for value in (1, 0.0002, "2e-4", "1E-05", ".5", "auto")
    ),
    Case("modules by expression", {"spec.method.targetModules": r".*\.(q|v)_proj"}),
    Case("modules by name", {"spec.method.targetModules": ["q_proj"]}),
    Case("quantized", _METHOD_QLORA | {"spec.method.quantization": {"bits": 8, "type": "int8"}}),
    Case("ia3", _METHOD_ADAPTER | {"spec.method.modulesToSave": ["lm_head"]}),
    Case("rank-stabilized dora", {"spec.method.type": "dora", "spec.method.rankStabilized": True}),
    Case("loftq on a quantized base", _METHOD_QLORA | {"spec.method.initialization": "loftq"}),
    Case("full tuning", _METHOD_FULL | {"spec.exports": [{"name": "a", "format": "safetensors"}]}),
    Case("zero 2 on a quantized base", _METHOD_QLORA | {"spec.distributed": {"strategy": "deepspeed", "zeroStage": 2}}),
    Case("steps", {"spec.training.maxSteps": 10}),
    Case("elastic", _TWO_NODES | {"spec.distributed.minNodes": 2}),
    Case("a tolerance of everything", {"spec.resources.tolerations": [{"operator": "Exists"}]}),
    Case("a node label", {"spec.resources.nodeSelector": {"node.kubernetes.io/instance-type": "g5.xlarge", "a_b": ""}}),
    Case("cores as a number", {"spec.resources.cpu": 2}),
    Case("half a core", {"spec.resources.cpu": "0.5"}),
    Case(
        "a gate on given rows", _NO_ROWS | {"spec.dataset.eval": _ROWS, "spec.evaluation.gates": [_gate("eval_loss")]}
    ),
    Case("no baseline", {"spec.evaluation.baseline": False, "spec.evaluation.gates": [_gate("eval_loss", atMost=1)]}),
    *(
        Case(
            f"gates on all metrics of {task.name}",
            task.changes | {"spec.evaluation.gates": [_gate(metric) for metric in TASK_METRICS[task.name]]},
        )
        for task in _TASKS
    ),
    Case("extraction", {"spec.task": "extraction", "spec.dataset.schema": {"enum": [{"a": None}]}}),
    Case("extraction from messages", {"spec.task": "extraction", "spec.dataset.format": "messages"}),
    Case("labelled text", {"spec.task": "classification", "spec.dataset.format": "labelled-text"}),
    Case("a text of columns", {"spec.task": "classification", "spec.dataset.template": "{title}: {body}"}),
    Case("tagged words", {"spec.task": "token-classification", "spec.dataset.format": "tagged-tokens"}),
    *(
        Case(f"preferences by {objective}", PREFERENCE | {"spec.training.objective": objective})
        for objective in ("orpo", "kto")
    ),
    Case("preferences by format", PREFERENCE | {"spec.dataset.format": "preference"}),
    Case("pretraining", {"spec.task": "completion", "spec.training.objective": "pretrain"}),
    Case("two exports", {"spec.exports": [{"name": "a", "format": "peft"}, {"name": "b", "format": "onnx"}]}),
    Case("a branch with a slash", {"spec.model.revision": "refs/pr/1"}),
    Case("a continued adapter", {"spec.method.continueFrom": {"source": "job://first"}}),
    Case("a continued ia3 adapter", _METHOD_ADAPTER | {"spec.method.continueFrom": {"source": "hf://org/a"}}),
    Case(
        "an adapter continued on the model of another job",
        {"spec.model.source": "job://first", "spec.method.continueFrom": {"source": "pvc://m/a"}},
    ),
    Case("several adapters", _adapters()),
    Case("several adapters and no word on data", _adapters(**{"spec.dataset": REMOVED})),
    Case("adapters of their own ranks", _adapters({"name": "a", "dataset": _ROWS, "rank": 4, "alpha": 3})),
    Case("several ia3 adapters", _adapters(**_METHOD_ADAPTER)),
    Case(
        "gates on adapters with given rows",
        _adapters(
            {"name": "a", "dataset": _ROWS, "eval": _ROWS},
            **(_NO_ROWS | {"spec.evaluation.gates": [_gate("eval_loss")]}),
        ),
    ),
    Case("sixteen adapters", _adapters(*({"name": f"a{i}", "dataset": _ROWS} for i in range(16)))),
    Case("the largest seed", {"spec.training.seed": 2**32 - 1}),
)
"""Accepted by the API server and by Python."""
