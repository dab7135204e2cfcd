"""Which metrics are measured and which artefacts are made. Pure."""

from finetune_api.heads import HEAD_FORMATS
from finetune_api.spec import Export, FineTuneJobSpec
from finetune_api.tasks import TASK_METRICS
from finetune_trainer.data.holdout import STRATIFIED_UP_TO
from finetune_trainer.errors import InvalidSpecError
from finetune_trainer.planning.facts import DataFacts
from finetune_trainer.planning.head_checks import head_metrics, require_entities


def metrics_of(spec: FineTuneJobSpec, data: DataFacts) -> list[str]:
    """Metrics of the evaluation: as asked, else by task and by what the rows allow; gated ones always.

    Raises InvalidSpecError for a metric that the task or the rows do not have.
    """
    if data.report.eval_rows == 0:
        if spec.evaluation.gates:
            raise InvalidSpecError("evaluation.gates needs held-out rows: set dataset.eval or a larger evalFraction")
        return []
    gated = [gate.metric for gate in spec.evaluation.gates]
    asked = spec.evaluation.metrics
    chosen = list(dict.fromkeys([*(_usual_metrics(spec, data) if isinstance(asked, str) else asked), *gated]))
    for metric in chosen:
        _require_metric(metric, spec, data)
    return chosen


def _usual_metrics(spec: FineTuneJobSpec, data: DataFacts) -> list[str]:
    if spec.task in HEAD_FORMATS:
        return head_metrics(spec.task, data.classes)
    if spec.task == "preference":
        return ["eval_loss", "accuracy"]
    usual = ["eval_loss", "perplexity"]
    if data.report.format == "text":
        return usual
    if spec.task == "extraction":
        return [*usual, "json-valid", "f1", "exact-match"]
    if spec.task == "summarization":
        return [*usual, "rouge1", "rouge2", "rougeL"]
    return [*usual, "exact-match"] if data.distinct_answers <= STRATIFIED_UP_TO else [*usual, "rougeL"]


def _require_metric(metric: str, spec: FineTuneJobSpec, data: DataFacts) -> None:
    known = TASK_METRICS[spec.task]
    if metric not in known:
        raise InvalidSpecError(
            f"evaluation.metrics: {metric} is not a metric of task {spec.task}; choose from {', '.join(known)}"
        )
    require_entities(metric, data.classes)
    if data.report.format == "text" and metric not in ("eval_loss", "perplexity"):
        raise InvalidSpecError(
            f"evaluation: {metric} compares answers, and rows of format text have none; use eval_loss or perplexity, "
            "or give the data as prompt and completion"
        )


def exports_of(spec: FineTuneJobSpec) -> list[Export]:
    """Artefacts: as asked, else the adapter and the merged model, or the model of full tuning."""
    if spec.exports:
        return list(spec.exports)
    if spec.method.type == "full":
        return [Export(name="model", format="safetensors")]
    return [Export(name="adapter", format="peft"), Export(name="merged", format="safetensors")]
