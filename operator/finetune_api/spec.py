"""FineTuneJob.spec: everything that a job can say. Field docs become `kubectl explain`, defaults are the schema's."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from finetune_api.rules import ApiModel, Rule
from finetune_api.spec_rules import SPEC_RULES
from finetune_api.values import (
    LABEL_KEY,
    Amount,
    Auto,
    BoolOrAuto,
    IntOrAuto,
    Label,
    LabelValue,
    LocalName,
    LongText,
    Matching,
    NumberOrAuto,
    OptionalName,
    Quantity,
    Text,
    keyed_by,
    uri_of,
)

Task = Literal[
    "chat", "completion", "summarization", "extraction", "classification", "token-classification", "preference"
]
MethodType = Literal["full", "lora", "qlora", "dora", "adapter"]
Objective = Literal["sft", "pretrain", "dpo", "orpo", "kto"]
DataFormat = Literal["messages", "prompt-completion", "text", "preference", "labelled-text", "tagged-tokens"]
ExportFormat = Literal["peft", "safetensors", "onnx", "onnx-adapter", "gguf"]
ExportPrecision = Literal["fp32", "fp16", "int8", "int4", "q8_0", "q4_0", "q4_k_m"]

ModelUri = Annotated[str, uri_of("model.source", "hf", "pvc", "s3", "gs", "az", "oci", "job")]
DataUri = Annotated[str, uri_of("dataset source", "hf", "pvc", "s3", "gs", "az")]
DestinationUri = Annotated[str, uri_of("output.destination", "pvc", "s3", "gs", "az", "oci", "hf")]
AdapterUri = Annotated[str, uri_of("method.continueFrom.source", "hf", "pvc", "s3", "gs", "az", "job")]
Revision = Annotated[
    str, Matching("[A-Za-z0-9][A-Za-z0-9._/-]*", "a revision must be a commit, a tag or a branch", 128)
]
Split = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9_.-]+(\[[-0-9%:]*\])?",
        "split must be a name with an optional slice, as in train, train[:4096] or train[10%:20%]",
        128,
    ),
]
LossName = Annotated[
    str, Matching("[a-z][a-z0-9-]*", "training.loss.type must be a name of lower-case letters, digits and '-'", 63)
]
ExtendedResource = Annotated[
    str,
    Matching(
        "[a-z0-9.-]+/[A-Za-z0-9._-]+",
        "resources.accelerator.resource must be an extended resource, as in nvidia.com/gpu",
        253,
    ),
]
ExecutionProvider = Annotated[
    str,
    Matching(
        "auto|[A-Za-z0-9]+ExecutionProvider",
        "provider must be auto or an ONNX Runtime execution provider, as in CPUExecutionProvider",
        63,
    ),
]
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HttpAddress = Annotated[
    str,
    Matching(
        rf"https?://[A-Za-z0-9][A-Za-z0-9.-]*(:{_PORT})?(/[!-~]*)?",
        "reporting needs the address of a server without user or password, as in http://mlflow:5000",
        512,
    ),
]
TaintKey = Annotated[str, Matching(f"({LABEL_KEY})?", "must be a taint key, as in nvidia.com/gpu, or empty", 317)]
Currency = Annotated[str, Matching("[A-Z]{3}", "policy.cost.currency must be an ISO 4217 code, as in USD", 3)]

OpenObject = Annotated[
    dict[str, Any],
    Field(max_length=64),
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True, "maxProperties": 64}),
]


class SecretRef(ApiModel):
    """Credentials by the name of a Secret in the job's own namespace; the operator never reads it."""

    secret_ref: LocalName
    """Name of a Secret; its keys become environment variables of the stages that need them."""


class ModelSpec(ApiModel):
    """The model to tune."""

    source: ModelUri
    """Where the model is: hf://org/name, pvc://claim/path, s3://, gs://, az://, oci://, job://name (its output)."""
    revision: Revision | None = None
    """Commit, tag or branch; resolved to a commit and pinned in status.plan when absent."""
    credentials: SecretRef | None = None
    """Secret for a private model."""
    trust_remote_code: bool = False
    """Run code that comes with the model. true is refused: such code is never run."""
    attention: Literal["auto", "eager", "sdpa", "flash"] = "auto"
    """Attention implementation."""
    chat_template: LongText = ""
    """Jinja chat template that overrides the tokenizer's own."""


class DataSource(ApiModel):
    """One set of rows."""

    source: DataUri
    """Where the rows are: hf://org/name, pvc://claim/path, s3://, gs://, az://; a file or a folder."""
    split: Split | None = None
    """Split with an optional slice: train, train[:4096], train[10%:20%]."""
    credentials: SecretRef | None = None
    """Secret for private data."""


class DatasetSpec(ApiModel):
    """The data to train and evaluate on."""

    train: DataSource | None = None
    """Rows to train on; with method.adapters each adapter names its own."""
    eval: DataSource | None = None
    """Rows held out; when absent, evalFraction of the train rows."""
    eval_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Fraction of the train rows held out, stratified by the label where there is one; 0 means no evaluation set."""
    format: Literal[Auto, DataFormat] = "auto"
    """Shape of a row; auto detects it from the columns."""
    columns: Annotated[dict[str, Text], Field(max_length=32)] = {}
    """Renames: canonical column -> column in the data, as in {text: body, label: topic}."""
    template: LongText = ""
    """Prompt text with column names in braces, as in "News: {text} Topic?"."""
    tools: bool = False
    """Render `tools` and `tool_calls` of messages through the chat template."""
    loss_on: Literal["assistant", "completion", "all"] | None = None
    """Tokens that carry loss; by default the assistant's turns of messages, the completion of a prompt, all of text."""
    max_length: IntOrAuto = "auto"
    """Longest row in tokens; auto takes the longest row of the data up to the model's context."""
    over_length: Literal["fail", "drop", "truncate"] = "fail"
    """What happens to a longer row; it is counted in status either way."""
    max_bad_rows: Annotated[int, Field(ge=0)] = 0
    """Rows that may be unusable before the job is refused; they are left out and counted."""
    packing: BoolOrAuto = "auto"
    """Put several short rows into one sequence, without attention across them: true, false or auto."""
    answer_schema: Annotated[OpenObject | None, Field(alias="schema")] = None
    """task extraction: JSON schema (draft 2020-12) that every answer must satisfy."""
    shuffle_seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of the order of rows and of the held-out split."""


class Quantization(ApiModel):
    """Quantization of the frozen base model."""

    bits: Literal[4, 8] = 4
    """Bits per weight."""
    type: Literal["nf4", "fp4", "int8"] = "nf4"
    """Data type of the quantized weights: nf4 or fp4 with 4 bits, int8 with 8."""
    double_quant: bool = True
    """Quantize the quantization constants too; 4 bits only."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What cannot work in itself."""
        return (
            Rule(
                "(self.bits == 8) == (self.type == 'int8')",
                "method.quantization: 8 bits go with type: int8, 4 bits with nf4 or fp4; change one of the two",
                lambda q: (q.bits == 8) == (q.type == "int8"),
            ),
        )


class NamedAdapter(ApiModel):
    """One of several adapters on a shared base."""

    name: Label
    """Name of the adapter; also of its artefact, followed by the export's where exports are given."""
    dataset: DataSource
    """Its own rows to train on."""
    eval: DataSource | None = None
    """Its own held-out rows; when absent, dataset.evalFraction of its rows."""
    rank: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Its own rank; method.rank when absent."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Its own scaling numerator; when absent, its rank in the proportion of method.alpha to method.rank."""


class AdapterSource(ApiModel):
    """An adapter that has been trained before."""

    source: AdapterUri
    """Where it is: hf://org/name, pvc://claim/path, s3://, gs://, az://, job://name (its output); a folder with
    adapter_config.json and adapter_model.safetensors."""
    revision: Revision | None = None
    """Commit, tag or branch of an hf:// source; resolved to a commit and pinned when absent."""
    credentials: SecretRef | None = None
    """Secret for a private adapter."""


class MethodSpec(ApiModel):
    """How the weights are changed."""

    type: MethodType = "lora"
    """full trains every weight; lora, qlora (on a quantized base), dora (with magnitudes) and adapter (IA3: one factor
    per channel) train a small addition to a frozen base."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the low-rank update."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Scaling numerator: the update is multiplied by alpha / rank."""
    rank_stabilized: bool = False
    """Multiply by alpha / sqrt(rank) in place of alpha / rank, so that high ranks learn too (rsLoRA)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the adapter's input."""
    target_modules: Annotated[
        Auto | Annotated[Text, Field(min_length=1)] | Annotated[list[Text], Field(min_length=1, max_length=64)],
        WithJsonSchema(
            {
                "x-kubernetes-preserve-unknown-fields": True,
                "minLength": 1,
                "maxLength": 1024,
                "minItems": 1,
                "maxItems": 64,
            }
        ),
    ] = "auto"
    """Modules to adapt: auto (all linear layers; for adapter the keys, the values and the end of the MLP), a list of
    names, or a regular expression over full names."""
    modules_to_save: Annotated[list[Text], Field(max_length=64)] = []
    """Modules trained in full and saved with the adapter."""
    initialization: Literal["default", "pissa", "loftq", "olora"] = "default"
    """Start values of the low-rank update: zero, the base's largest singular directions (pissa), its QR decomposition
    (olora), or the quantization error (loftq; qlora only). All but zero are saved at twice the rank."""
    quantization: Quantization | None = None
    """Quantization of the base; qlora only."""
    continue_from: AdapterSource | None = None
    """Adapter to go on training, on the base that model.source names, in place of a new one; type, rank, alpha,
    rankStabilized, targetModules and modulesToSave must be its own."""
    adapters: Annotated[list[NamedAdapter], Field(max_length=16), keyed_by("name")] = []
    """Several adapters on one shared base, trained in one run and saved separately. What else the job says (task,
    steps, gates, exports) holds for each of them."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What cannot work in itself."""
        return (
            Rule(
                "!has(self.quantization) || self.type == 'qlora'",
                "method.quantization belongs to method.type: qlora; remove it or choose qlora",
                lambda m: m.quantization is None or m.type == "qlora",
            ),
            Rule(
                "self.type != 'full' || self.adapters.size() == 0",
                "method.adapters cannot be used with method.type: full, which has no adapters; choose lora",
                lambda m: m.type != "full" or not m.adapters,
            ),
            Rule(
                "self.type != 'full' || (self.initialization == 'default' && self.modulesToSave.size() == 0)",
                "method.initialization and method.modulesToSave belong to an adapter; with type: full remove them",
                lambda m: m.type != "full" or (m.initialization == "default" and not m.modules_to_save),
            ),
            Rule(
                "self.type != 'qlora' || !(self.initialization in ['pissa', 'olora'])",
                "method.initialization: pissa and olora need an unquantized base; with qlora use default or loftq",
                lambda m: m.type != "qlora" or m.initialization not in ("pissa", "olora"),
            ),
            Rule(
                "self.type == 'qlora' || self.initialization != 'loftq'",
                "method.initialization: loftq makes up for quantization; without qlora use default, pissa or olora",
                lambda m: m.type == "qlora" or m.initialization != "loftq",
            ),
            Rule(
                "!(self.type in ['adapter', 'full']) || !self.rankStabilized",
                "method.rankStabilized belongs to lora, qlora and dora; remove it or choose one of them",
                lambda m: m.type not in ("adapter", "full") or not m.rank_stabilized,
            ),
            Rule(
                "self.type != 'adapter' || (self.rank == 16 && self.alpha == 32.0 && self.dropout == 0.05 && "
                "self.initialization == 'default')",
                "method.rank, alpha, dropout and initialization belong to a low-rank update, which type: adapter (IA3) "
                "is not; remove them or choose lora",
                lambda m: (
                    m.type != "adapter" or (m.rank, m.alpha, m.dropout, m.initialization) == (16, 32, 0.05, "default")
                ),
            ),
            Rule(
                "!has(self.continueFrom) || "
                "(self.type != 'full' && self.initialization == 'default' && self.adapters.size() == 0)",
                "method.continueFrom gives one adapter its start values: with type: full, an initialization of its own "
                "or method.adapters remove it",
                lambda m: (
                    m.continue_from is None or (m.type != "full" and m.initialization == "default" and not m.adapters)
                ),
            ),
            Rule(
                "self.adapters.all(a, self.adapters.exists_one(b, b.name == a.name))",
                "method.adapters must have different names",
                lambda m: len({a.name for a in m.adapters}) == len(m.adapters),
            ),
            Rule(
                "self.type != 'adapter' || self.adapters.all(a, !has(a.rank) && !has(a.alpha))",
                "method.adapters[].rank and alpha belong to a low-rank update, which type: adapter (IA3) is not; "
                "remove them or choose lora",
                lambda m: m.type != "adapter" or all(a.rank is None and a.alpha is None for a in m.adapters),
            ),
        )


class Loss(ApiModel):
    """The loss function."""

    type: LossName = "default"
    """default, focal, label-smoothing, class-weighted (rare tokens or classes count more), or a registered name."""
    gamma: Annotated[float, Field(ge=0)] | None = None
    """focal: exponent of the down-weighting of easy tokens; 2 when absent."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    """label-smoothing: mass given to the other classes; 0.1 when absent."""


class EarlyStopping(ApiModel):
    """Stop when the evaluation no longer improves."""

    metric: Annotated[str, Field(max_length=63)] = "eval_loss"
    """Metric to watch."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Evaluations without improvement before training stops."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest change that counts as an improvement."""


class TrainingSpec(ApiModel):
    """How training runs."""

    objective: Objective = "sft"
    """What is optimised: sft (answers), pretrain (plain text), dpo, orpo or kto (preferences)."""
    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the pull to the reference model (dpo, kto), or weight of the odds ratio (orpo)."""
    epochs: Annotated[float, Field(gt=0, le=10000)] | None = None
    """Passes over the train rows; 3 when neither epochs nor maxSteps is given."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps, in place of epochs."""
    batch_size: IntOrAuto = "auto"
    """Global batch in rows per optimizer step, or auto; gradient accumulation follows from it."""
    micro_batch_size: IntOrAuto = "auto"
    """Rows of one forward pass on one device, or auto: as many as memory allows."""
    learning_rate: NumberOrAuto = "auto"
    """Peak learning rate, or auto: by method and objective."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Fraction of the steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw-8bit", "adafactor", "sgd"] = "adamw"
    """Optimizer."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this L2 norm; 0 turns clipping off."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format of the computation."""
    gradient_checkpointing: BoolOrAuto = "auto"
    """Recompute activations in the backward pass to save memory: true, false or auto."""
    loss: Loss = Loss()
    """Loss function."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps between reports of loss and progress."""
    eval_every: IntOrAuto = "auto"
    """Steps between evaluations, or auto."""
    checkpoint_every: IntOrAuto = "auto"
    """Steps between checkpoints, or auto."""
    keep_checkpoints: Annotated[int, Field(ge=2, le=100)] = 2
    """Complete checkpoints kept; two at least, so that one is whole while the next is written."""
    early_stopping: EarlyStopping | None = None
    """Stop early; off when absent."""
    load_best: bool = True
    """End with the weights of the best evaluation in place of the last."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of initialisation, dropout and order."""
    extra: OpenObject = {}
    """Any further TrainingArguments field, validated against the installed version."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What cannot work in itself."""
        return (
            Rule(
                "!(has(self.epochs) && has(self.maxSteps))",
                "training.epochs and training.maxSteps exclude each other; keep one",
                lambda t: t.epochs is None or t.max_steps is None,
            ),
        )


class DistributedSpec(ApiModel):
    """Over how many processes and pods training runs."""

    strategy: Literal["auto", "none", "ddp", "fsdp", "deepspeed"] = "auto"
    """How weights and work are spread."""
    zero_stage: Literal[1, 2, 3] = 3
    """deepspeed: what is sharded."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What is kept in host memory."""
    nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pods."""
    processes_per_node: IntOrAuto = "auto"
    """Processes in a pod; auto is one per accelerator."""
    min_nodes: Annotated[int, Field(ge=1)] | None = None
    """Elastic lower bound of nodes."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What cannot work in itself."""
        return (
            Rule(
                "!has(self.minNodes) || self.minNodes <= self.nodes",
                "distributed.minNodes must not exceed distributed.nodes",
                lambda d: d.min_nodes is None or d.min_nodes <= d.nodes,
            ),
            Rule(
                "self.nodes == 1 || self.strategy != 'none'",
                "distributed.strategy: none runs in one pod; set distributed.nodes: 1 or another strategy",
                lambda d: d.nodes == 1 or d.strategy != "none",
            ),
        )


class Accelerator(ApiModel):
    """Accelerators of one training pod."""

    resource: ExtendedResource = "nvidia.com/gpu"
    """Extended resource name."""
    count: Annotated[int, Field(ge=1, le=16)] = 1
    """Accelerators per pod."""


class Toleration(ApiModel):
    """A taint that the pod tolerates."""

    key: TaintKey = ""
    """Taint key; empty with operator Exists matches every key."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Relation of key and value."""
    value: LabelValue = ""
    """Taint value."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Taint effect; empty matches every effect."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What a pod would be refused for."""
        return (
            Rule(
                "self.operator == 'Exists' || self.key != ''",
                "a toleration without key needs operator: Exists, and then matches every taint",
                lambda t: t.operator == "Exists" or t.key != "",
            ),
            Rule(
                "self.operator == 'Equal' || self.value == ''",
                "a toleration with operator: Exists has no value; remove it or use operator: Equal",
                lambda t: t.operator == "Equal" or t.value == "",
            ),
        )


class ResourcesSpec(ApiModel):
    """What one training pod asks for; the other stages take theirs from the plan."""

    accelerator: Accelerator | None = None
    """Accelerators; absent means CPU."""
    cpu: Quantity = "4"
    """CPU request."""
    memory: Quantity = "16Gi"
    """Memory request and limit."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=32)] = {}
    """Labels that the node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that the pods tolerate."""
    priority_class_name: OptionalName = ""
    """PriorityClass of the pods."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What a pod would be refused for."""
        return (
            Rule(
                f"self.nodeSelector.all(key, key.size() <= 317 && key.matches(r'^({LABEL_KEY})$'))",
                "resources.nodeSelector must have label keys, as in topology.kubernetes.io/zone",
                lambda r: all(len(key) <= 317 and re.fullmatch(LABEL_KEY, key) for key in r.node_selector),
            ),
        )


class Generation(ApiModel):
    """How answers are generated in evaluation."""

    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] = 128
    """Longest answer in tokens."""


class Gate(ApiModel):
    """A bar that the tuned model must clear; unmet, the job fails and nothing is published."""

    metric: Annotated[str, Field(max_length=63)]
    """Metric of the task."""
    at_least: float | None = None
    """Lowest value accepted."""
    at_most: float | None = None
    """Highest value accepted."""
    improves_baseline_by: float | None = None
    """Smallest improvement over the base model, in the metric's own unit."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What cannot work in itself."""
        return (
            Rule(
                "[has(self.atLeast), has(self.atMost), has(self.improvesBaselineBy)].exists_one(x, x)",
                "a gate needs exactly one of atLeast, atMost and improvesBaselineBy",
                lambda g: sum(x is not None for x in (g.at_least, g.at_most, g.improves_baseline_by)) == 1,
            ),
        )


class EvaluationSpec(ApiModel):
    """How the tuned model is compared with what training started from."""

    metrics: Annotated[
        Auto | Annotated[list[Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=32)],
        WithJsonSchema(
            {
                "x-kubernetes-preserve-unknown-fields": True,
                "pattern": "^auto$",
                "maxLength": 4,
                "minItems": 1,
                "maxItems": 32,
            }
        ),
    ] = "auto"
    """Metrics to report, or auto for those of the task."""
    baseline: bool = True
    """Evaluate what training started from, too: the base model, or the continued adapter on it."""
    max_rows: Annotated[int, Field(ge=1)] = 500
    """Held-out rows used at most."""
    generation: Generation = Generation()
    """Generation of answers."""
    gates: Annotated[list[Gate], Field(max_length=16)] = []
    """Bars to clear before anything is exported."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What cannot work in itself."""
        return (
            Rule(
                "self.baseline || self.gates.all(g, !has(g.improvesBaselineBy))",
                "a gate with improvesBaselineBy needs evaluation.baseline: true",
                lambda e: e.baseline or all(g.improves_baseline_by is None for g in e.gates),
            ),
        )


class ParityLimits(ApiModel):
    """How far an export may differ from the tuned model; defaults depend on the precision."""

    max_abs: Annotated[float, Field(gt=0)] | None = None
    """Largest absolute difference of a logit."""
    max_kl: Annotated[float, Field(gt=0)] | None = None
    """Largest mean Kullback-Leibler divergence of the next-token distributions, in nats."""
    min_top1: Annotated[float, Field(ge=0, le=1)] | None = None
    """Smallest fraction of positions with the same most likely token."""
    max_perplexity_ratio: Annotated[float, Field(ge=1)] | None = None
    """Largest ratio of perplexities, export over tuned model."""


class Export(ApiModel):
    """One artefact to publish."""

    name: Label
    """Name of the artefact and of its folder."""
    format: ExportFormat
    """peft (the adapter), safetensors (merged weights), onnx, onnx-adapter, gguf."""
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    """onnx: device that will run it."""
    provider: ExecutionProvider = "auto"
    """onnx: ONNX Runtime execution provider, or auto: by device."""
    precision: ExportPrecision | None = None
    """Number format of the weights; fp32 for onnx and the model's own for safetensors when absent."""
    parity: ParityLimits | None = None
    """Limits of the parity gate."""


class Workspace(ApiModel):
    """Scratch and checkpoints."""

    size: Quantity = "20Gi"
    """Size of the job's own claim."""
    storage_class_name: OptionalName = ""
    """StorageClass; the cluster's default when empty."""
    claim_name: OptionalName = ""
    """An existing claim to use in place of one of the job's own; it outlives the job."""


class OutputSpec(ApiModel):
    """Where results go."""

    destination: DestinationUri | None = None
    """Where artefacts are published: pvc://claim/path, s3://, gs://, az://; when absent they stay in the job's
    workspace and go with it."""
    credentials: SecretRef | None = None
    """Secret for a destination in a bucket; those of the sources are not used for it."""
    workspace: Workspace = Workspace()
    """Scratch and checkpoints."""


class MlflowReporting(ApiModel):
    """MLflow tracking."""

    tracking_uri: HttpAddress
    """Address of the tracking server."""
    experiment: Text = "finetune"
    """Experiment name."""
    secret_ref: LocalName | None = None
    """Secret with MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""


class WandbReporting(ApiModel):
    """Weights & Biases."""

    project: Text
    """Project name."""
    secret_ref: LocalName
    """Secret with WANDB_API_KEY."""
    base_url: HttpAddress | None = None
    """Address of a server of one's own; the public one when absent."""


class ReportingSpec(ApiModel):
    """Where curves go."""

    tensorboard: bool = True
    """Write TensorBoard event files beside the artefacts."""
    mlflow: MlflowReporting | None = None
    """MLflow tracking."""
    wandb: WandbReporting | None = None
    """Weights & Biases."""


class Cost(ApiModel):
    """Price and budget."""

    per_hour: Amount
    """Price of one accelerator (one pod on CPU) for one hour."""
    currency: Currency = "USD"
    """ISO 4217 code."""
    budget: Amount | None = None
    """Most that the job may cost; over it, a checkpoint is saved and the job stops."""


class PolicySpec(ApiModel):
    """Rules of the job's life. suspend, activeDeadlineSeconds and ttlSecondsAfterFinished may change at any time."""

    suspend: bool = False
    """Stop after a checkpoint and free the resources; false goes on from it."""
    active_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    """Longest time the job may be active, summed over suspensions."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """Attempts of a stage that may be lost to crashes; disruptions do not count."""
    hang_timeout_seconds: Annotated[int, Field(ge=10)] = 1800
    """Time without a step after which training starts again from its checkpoint."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """Time after which the finished FineTuneJob is deleted."""
    cost: Cost | None = None
    """Price and budget."""


class FineTuneJobSpec(ApiModel):
    """What to tune, on what, how, and where the result goes. Everything but three policy fields is immutable."""

    task: Task = "chat"
    """What the model learns to do; sets the row formats, metrics and head."""
    model: ModelSpec
    """The model to tune."""
    dataset: DatasetSpec = DatasetSpec()
    """The data."""
    method: MethodSpec = MethodSpec()
    """How the weights are changed."""
    training: TrainingSpec = TrainingSpec()
    """How training runs."""
    distributed: DistributedSpec = DistributedSpec()
    """Over how many processes and pods."""
    resources: ResourcesSpec = ResourcesSpec()
    """What one training pod asks for."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How the result is judged."""
    exports: Annotated[list[Export], Field(max_length=16), keyed_by("name")] = []
    """Artefacts; when empty: the adapter and the merged model, the model for full tuning, each of method.adapters."""
    output: OutputSpec = OutputSpec()
    """Where results go."""
    reporting: ReportingSpec = ReportingSpec()
    """Where curves go."""
    policy: PolicySpec = PolicySpec()
    """Rules of the job's life."""
    dry_run: bool = False
    """Prepare only: data report, plan, memory and cost estimate; no accelerator is asked for."""

    @classmethod
    def rules(cls) -> tuple[Rule, ...]:
        """What cannot work in itself."""
        return SPEC_RULES
