"""FineTuneJob.status: what a job reports. Small and reconstructable; numbers with fractions are strings."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.rules import ApiModel
from finetune_api.spec import DataFormat, Export, MethodType, Objective
from finetune_api.values import Decimal, Text, Timestamp, keyed_by


class Phase(StrEnum):
    """Where the whole job stands."""

    PENDING = "Pending"
    SUSPENDED = "Suspended"
    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    EXPORTING = "Exporting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class Stage(StrEnum):
    """The four stages, in their order."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"
    EXPORT = "export"


class Condition(ApiModel):
    """A standard Kubernetes condition."""

    type: Annotated[str, Field(max_length=316)]
    """Condition type."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    reason: Annotated[str, Field(max_length=128)]
    """CamelCase reason."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """What is the case and what to do."""
    last_transition_time: Timestamp
    """When status last changed."""
    observed_generation: int = 0
    """Generation of the spec that this is about."""


class Attempts(ApiModel):
    """Tries at stages."""

    count: int = 0
    """Attempts started, over all stages."""
    failures: int = 0
    """Attempts of the current stage lost to crashes; counted against policy.retries."""
    disruptions: int = 0
    """Attempts lost to preemption, eviction or drain; they do not use up retries."""
    last_reason: Annotated[str, Field(max_length=128)] = ""
    """Why the last attempt was lost."""


AdapterName = Annotated[str, Field(max_length=63)]


class Progress(ApiModel):
    """How far the running stage is."""

    stage: Stage
    """Running stage."""
    step: int = 0
    """Steps done: optimizer steps in training, rows in evaluation."""
    total_steps: int = 0
    """Steps in all; 0 while unknown."""
    percent: int = 0
    """100 * step / totalSteps, rounded down."""
    epoch: Decimal | None = None
    """Passes over the train rows so far."""
    adapter: AdapterName | None = None
    """The one of method.adapters that is worked on; steps and time are those of all."""
    seconds_left: int | None = None
    """Estimate of the time left in this stage, in seconds."""
    updated_at: Timestamp | None = None
    """When the training pod reported this."""


class Metrics(ApiModel):
    """Latest measurements of training."""

    loss: Decimal | None = None
    """Mean training loss since the last report: in nats per supervised token, or the objective's of a row."""
    eval_loss: Decimal | None = None
    """The same loss on the held-out rows."""
    learning_rate: Decimal | None = None
    """Current learning rate."""
    tokens_per_second: Decimal | None = None
    """Real tokens (no padding) per second, over all devices."""
    grad_norm: Decimal | None = None
    """L2 norm of the gradient before clipping."""
    reward_margin: Decimal | None = None
    """Preferences: mean reward of wanted answers less that of unwanted ones, since the last report."""
    reward_accuracy: Decimal | None = None
    """Preferences: share of train rows, since the last report, whose rewards are in the right order."""
    peak_memory_bytes: int | None = None
    """Peak of device memory, or of the process's resident set on CPU, in bytes."""
    adapter: AdapterName | None = None
    """The one of method.adapters that was measured."""


class HistoryPoint(ApiModel):
    """One point of the curves."""

    step: int
    """Optimizer step."""
    loss: Decimal | None = None
    """Training loss."""
    eval_loss: Decimal | None = None
    """Evaluation loss."""
    adapter: AdapterName | None = None
    """The one of method.adapters that was measured; its steps follow those of the one before."""


LINEAGE_LIMIT = 16
HISTORY_LIMIT = 50
DISRUPTED_PODS_LIMIT = 16


class RowTokens(ApiModel):
    """How long the train rows are, in tokens, as they are trained on; each number is the length of some row."""

    min: int
    """Tokens of the shortest row."""
    median: int
    """Half of the rows have at most so many tokens."""
    p90: int
    """90 of 100 rows have at most so many tokens."""
    p99: int
    """99 of 100 rows have at most so many tokens."""
    max: int
    """Tokens of the longest row."""


class LongRow(ApiModel):
    """One of the longest rows."""

    row: Annotated[str, Field(max_length=253)]
    """Where it stands, as in `line 12`."""
    tokens: int
    """Its tokens before any cut."""


LABELS_LIMIT = 50


class LabelCount(ApiModel):
    """A label of the train rows."""

    label: Annotated[str, Field(max_length=128)]
    """Its name."""
    count: int
    """Train rows, or words of train rows, that have it."""


class DatasetReport(ApiModel):
    """What the data turned out to be."""

    format: DataFormat
    """Format found or asked for."""
    file_format: Text = ""
    """How the rows are stored, as in `JSON Lines, gzip`."""
    train_rows: int
    """Rows that are trained on."""
    eval_rows: int
    """Rows that are held out."""
    bad_rows: int = 0
    """Rows left out because they cannot be used."""
    over_length_rows: int = 0
    """Rows longer than maxLength, dropped or truncated."""
    train_tokens: int = 0
    """Tokens of the train rows."""
    supervised_tokens: int = 0
    """Tokens of the train rows that carry loss."""
    longest_row: int = 0
    """Tokens of the longest train row, before any cut."""
    row_tokens: RowTokens | None = None
    """How long the train rows are."""
    longest_rows: Annotated[list[LongRow], Field(max_length=5)] = []
    """The longest train rows, the longest first: where to look when memory is short."""
    digest: Annotated[str, Field(max_length=80)] = ""
    """sha256:<hex> of the rows as they are trained on."""
    labels: Annotated[list[LabelCount], Field(max_length=LABELS_LIMIT)] = []
    """Labels of the train rows by name; the most frequent ones where there are more than fit."""
    label_count: int = 0
    """Different labels of the train rows: classes of the model's head; 0 for tasks without labels."""
    warnings: Annotated[list[Text], Field(max_length=16)] = []
    """What looks wrong and is not fatal, with row numbers."""


class PlannedModel(ApiModel):
    """The model as it was found."""

    source: Text
    """Where it came from."""
    revision: Annotated[str, Field(max_length=128)] = ""
    """Commit it was pinned to, for a source that has commits."""
    digest: Annotated[str, Field(max_length=80)]
    """sha256:<hex> over names and contents of its weight, configuration and tokenizer files."""
    architecture: Annotated[str, Field(max_length=128)]
    """Class name of the model, as in LlamaForCausalLM."""
    parameters: int
    """Number of parameters."""
    trainable_parameters: int
    """Number of parameters that are trained, adapters included."""
    context_length: int
    """Longest sequence that the model supports, in tokens."""


class PlannedMethod(ApiModel):
    """The method as it runs."""

    type: MethodType
    """Method."""
    rank: int | None = None
    """Rank of the adapter."""
    alpha: Decimal | None = None
    """Scaling numerator of the adapter."""
    target_modules: Annotated[list[Text], Field(max_length=64)] = []
    """Modules that are adapted."""
    continued_from: Annotated[str, Field(max_length=1024)] = ""
    """Source of the adapter that is continued; empty for a new one."""
    continued_digest: Annotated[str, Field(max_length=80)] = ""
    """Digest of its files."""

    @property
    def start(self) -> str:
        """What training starts from and the tuned model is compared with, in words."""
        return "continued adapter" if self.continued_from else "base model"


class PlannedTraining(ApiModel):
    """The training as it runs: every auto resolved."""

    objective: Objective
    """What is optimised."""
    total_steps: int
    """Optimizer steps."""
    epochs: Decimal
    """Passes over the train rows."""
    batch_size: int
    """Rows per optimizer step, over all devices."""
    micro_batch_size: int
    """Rows per forward pass on one device."""
    gradient_accumulation_steps: int
    """Forward passes per optimizer step on one device."""
    learning_rate: Decimal
    """Peak learning rate."""
    warmup_steps: int
    """Steps of rising learning rate."""
    scheduler: Text
    """Course of the learning rate."""
    optimizer: Text
    """Optimizer."""
    max_length: int
    """Longest sequence in tokens."""
    packing: bool
    """Whether several rows share a sequence."""
    loss_on: Literal["assistant", "completion", "all", "label"]
    """Tokens that carry loss; label: those at which a class is told."""
    precision: Literal["bf16", "fp16", "fp32"]
    """Number format of the computation."""
    gradient_checkpointing: bool
    """Whether activations are recomputed."""
    attention: Text
    """Attention implementation."""
    eval_every: int
    """Steps between evaluations; 0 when there are no held-out rows."""
    checkpoint_every: int
    """Steps between checkpoints."""
    log_every: int
    """Steps between reports."""


class MemoryPlan(ApiModel):
    """Estimate of the peak memory of training, in bytes."""

    weights: int
    """Weights of the model and the adapter."""
    gradients: int
    """Gradients of what is trained."""
    optimizer: int
    """Optimizer state."""
    activations: int
    """Activations kept for the backward pass."""
    logits: int
    """Logits and their gradient."""
    runtime: int
    """Interpreter, libraries and allocator."""
    estimated_bytes: int
    """Sum of the parts."""
    limit_bytes: int | None = None
    """Memory that the training pod has."""
    measured_peak_bytes: int | None = None
    """Peak measured in training."""


class PlannedAdapter(ApiModel):
    """What is the own of one of method.adapters."""

    name: AdapterName
    """Name."""
    train_rows: int
    """Rows that it is trained on."""
    eval_rows: int
    """Rows that are held out."""
    rank: int | None = None
    """Its rank."""
    alpha: Decimal | None = None
    """Its scaling numerator."""
    total_steps: int
    """Its optimizer steps."""
    batch_size: int
    """Rows per optimizer step."""
    max_length: int
    """Its longest sequence in tokens."""
    estimated_bytes: int
    """Estimate of the peak memory of its training."""


class Plan(ApiModel):
    """The resolved plan: written by prepare, followed by every later stage, shown in status."""

    model: PlannedModel
    """The model as it was found."""
    method: PlannedMethod
    """The method as it runs."""
    training: PlannedTraining
    """The training as it runs."""
    strategy: Literal["none", "ddp", "fsdp", "deepspeed"]
    """How work is spread over processes."""
    world_size: int = 1
    """Processes over all pods."""
    metrics: Annotated[list[Annotated[str, Field(max_length=63)]], Field(max_length=32)]
    """Metrics of the evaluation."""
    exports: Annotated[list[Export], Field(max_length=16)]
    """Artefacts to make."""
    memory: MemoryPlan
    """Memory of one training process."""
    adapters: Annotated[list[PlannedAdapter], Field(max_length=16), keyed_by("name")] = []
    """Of method.adapters what is each one's own. Elsewhere in the plan steps and trained parameters are sums, and the
    rest is that of the adapter that needs the most memory."""
    estimated_seconds: int | None = None
    """Estimate of the time of stage train, when the speed of the machine is known."""
    estimated_cost: Text = ""
    """What that time costs, as in `1.25 USD`, when a price is given."""
    trainer_image: Annotated[str, Field(max_length=512)] = ""
    """Image of the stages, with digest where the node reports one."""


class GateResult(ApiModel):
    """Verdict on a gate."""

    metric: Annotated[str, Field(max_length=63)]
    """Metric."""
    required: Text
    """The bar, as in `at least 0.8`."""
    got: Decimal | None = None
    """Value judged."""
    passed: bool
    """Whether it is met."""


class AdapterEvaluation(ApiModel):
    """Base model against one of method.adapters on its own held-out rows."""

    name: AdapterName
    """Name of the adapter."""
    rows: int
    """Held-out rows used."""
    baseline: dict[str, Decimal] = {}
    """Metrics of the untouched base model."""
    tuned: dict[str, Decimal] = {}
    """Metrics of the base model with this adapter."""
    gates: Annotated[list[GateResult], Field(max_length=16)] = []
    """Verdicts on the gates."""


class Evaluation(ApiModel):
    """Base model against tuned model on the same held-out rows."""

    rows: int
    """Held-out rows used, of all adapters."""
    adapters: Annotated[list[AdapterEvaluation], Field(max_length=16), keyed_by("name")] = []
    """With method.adapters all figures are here, each adapter's on its own rows; the rest is then empty."""
    baseline: dict[str, Decimal] = {}
    """Metrics of what training started from: the untouched base model, or the continued adapter on it."""
    tuned: dict[str, Decimal] = {}
    """Metrics of the tuned model."""
    gates: Annotated[list[GateResult], Field(max_length=16)] = []
    """Verdicts on the gates."""


class Parity(ApiModel):
    """How close an export is to the tuned model, on held-out prompts."""

    max_abs: Decimal | None = None
    """Largest absolute difference of a logit."""
    kl: Decimal | None = None
    """Mean Kullback-Leibler divergence of the next-token distributions, in nats."""
    top1: Decimal | None = None
    """Fraction of positions with the same most likely token."""
    perplexity_ratio: Decimal | None = None
    """Perplexity of the export over that of the tuned model."""
    passed: bool
    """Whether all limits hold."""


class Artifact(ApiModel):
    """Something that was published."""

    name: Annotated[str, Field(max_length=63)]
    """Name of the export."""
    format: Annotated[str, Field(max_length=63)]
    """Format."""
    precision: Annotated[str, Field(max_length=16)] = ""
    """Number format of the weights."""
    uri: Annotated[str, Field(max_length=1024)]
    """Where it lies."""
    size_bytes: int
    """Size of all its files."""
    digest: Annotated[str, Field(max_length=80)]
    """sha256:<hex> over names and contents of its files."""
    parity: Parity | None = None
    """Proof that it computes what the tuned model computes."""
    tokens_per_second: Decimal | None = None
    """Decoding speed where it was measured."""


class Checkpoint(ApiModel):
    """The newest complete checkpoint."""

    step: int
    """Optimizer step it holds."""
    saved_at: Timestamp
    """When it was complete."""
    verified: bool
    """Whether its manifest was read back and holds."""


class PodTime(ApiModel):
    """How long a pod has held its resources."""

    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""
    seconds: int
    """From its start on the node to its end, or to the last update."""


class CostReport(ApiModel):
    """What training and evaluation have used."""

    accelerator_seconds: int
    """Accelerator time (pod time on CPU), in seconds, over all attempts."""
    amount: Text = ""
    """Money, as in `1.25 USD`, when a price is given."""
    pods: Annotated[list[PodTime], Field(max_length=16)] = []
    """The newest pods in accelerator_seconds; those that are gone have been added up."""


class Child(ApiModel):
    """An object that the operator created for a stage. Recorded before it is created."""

    stage: Stage
    """Stage it serves."""
    kind: Annotated[str, Field(max_length=63)]
    """Kind."""
    name: Annotated[str, Field(max_length=253)]
    """Name."""
    attempt: int
    """Attempt, from 1 in each stage."""
    uid: Annotated[str, Field(max_length=64)] = ""
    """Its uid once it exists."""
    disrupted_pods: Annotated[list[Text], Field(max_length=DISRUPTED_PODS_LIMIT)] = []
    """uids of its last pods that the cluster ended and the Job controller replaced; each is counted once."""


class StageTiming(ApiModel):
    """When a stage ran."""

    stage: Stage
    """Stage."""
    started_at: Timestamp
    """When its first attempt started."""
    completed_at: Timestamp | None = None
    """When it ended."""


class Ancestor(ApiModel):
    """A job that made the model which this one tunes on, or the adapter which it continues."""

    job: Annotated[str, Field(max_length=253)]
    """Its name."""
    uid: Annotated[str, Field(max_length=64)]
    """Its uid."""
    artifact: Annotated[str, Field(max_length=63)]
    """Name of the export."""
    uri: Annotated[str, Field(max_length=1024)]
    """Where that lies."""
    digest: Annotated[str, Field(max_length=80)]
    """Digest that it was published with, and that prepare has compared."""
    base_digest: Annotated[str, Field(max_length=80)] = ""
    """Of an adapter, the digest of the model that it was trained on."""


class FineTuneJobStatus(ApiModel):
    """What the job reports."""

    observed_generation: int = 0
    """Generation of the spec that this is about."""
    phase: Phase = Phase.PENDING
    """Where the whole job stands; machines should read the conditions."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """One sentence for a person."""
    conditions: Annotated[list[Condition], Field(max_length=16), keyed_by("type")] = []
    """Standard conditions."""
    start_time: Timestamp | None = None
    """When the operator first acted on the job."""
    completion_time: Timestamp | None = None
    """When the job ended."""
    last_update_time: Timestamp | None = None
    """When the operator last wrote this status."""
    active_seconds: int = 0
    """Seconds active before the last suspension; with activeSince, what policy.activeDeadlineSeconds counts."""
    active_since: Timestamp | None = None
    """Start of the current stretch of activity; absent while suspended."""
    attempts: Attempts = Attempts()
    """Tries at stages."""
    stages: Annotated[list[StageTiming], Field(max_length=4)] = []
    """When each stage ran."""
    lineage: Annotated[list[Ancestor], Field(max_length=LINEAGE_LIMIT)] = []
    """Jobs that the model comes from, the nearest first; pinned before the first stage starts."""
    progress: Progress | None = None
    """How far the running stage is."""
    metrics: Metrics | None = None
    """Latest measurements of training."""
    history: Annotated[list[HistoryPoint], Field(max_length=HISTORY_LIMIT)] = []
    """The curves, thinned evenly."""
    dataset: DatasetReport | None = None
    """What the data turned out to be."""
    plan: Plan | None = None
    """Every auto resolved."""
    evaluation: Evaluation | None = None
    """Base against tuned model."""
    artifacts: Annotated[list[Artifact], Field(max_length=16)] = []
    """What was published."""
    checkpoint: Checkpoint | None = None
    """The newest complete checkpoint."""
    cost: CostReport | None = None
    """What the job has used."""
    children: Annotated[list[Child], Field(max_length=512)] = []
    """Objects that the operator created."""
