"""What this version can do. A field that it cannot honour is refused by name, never ignored.

The operator asks before it creates anything; a run without Kubernetes asks before it loads anything.
"""

from collections.abc import Iterator

from finetune_api.heads import HEAD_FORMATS
from finetune_api.sources import sources
from finetune_api.spec import DataSource, FineTuneJobSpec

TASKS = ("chat", "completion", "summarization", "extraction", "preference", *HEAD_FORMATS)
OBJECTIVES = ("sft", "pretrain", "dpo", "orpo", "kto")
OBJECT_SCHEMES = ("s3", "gs", "az")
SOURCE_SCHEMES = ("pvc", "hf", *OBJECT_SCHEMES)
DESTINATION_SCHEMES = ("pvc", *OBJECT_SCHEMES)
FORMATS = ("auto", "messages", "prompt-completion", "text", "preference", *HEAD_FORMATS.values())
STRATEGIES = ("auto", "none")
EXPORT_FORMATS = ("peft", "safetensors", "onnx")
ONNX_PROVIDERS = ("auto", "CPUExecutionProvider")
ONNX_PRECISIONS = (None, "fp32", "int8", "int4")
HEAD_ONNX_PRECISIONS = (None, "fp32", "int8")
SAFETENSORS_PRECISIONS = (None, "fp32")


def unsupported(spec: FineTuneJobSpec) -> list[str]:
    """One entry for each field that this version cannot honour, as in `method.type=qlora`; empty when it can do all."""
    return [*_unsupported(spec)]


def _unsupported(spec: FineTuneJobSpec) -> Iterator[str]:
    yield from _outside("task", spec.task, TASKS)
    yield from _outside("training.objective", spec.training.objective, OBJECTIVES)
    yield from _outside("dataset.format", spec.dataset.format, FORMATS)
    yield from _outside("distributed.strategy", spec.distributed.strategy, STRATEGIES)
    yield from _outside("distributed.zeroStage", spec.distributed.zero_stage, (3,))
    yield from _outside("distributed.offload", spec.distributed.offload, ("none",))
    yield from _outside("distributed.nodes", spec.distributed.nodes, (1,))
    yield from _outside("distributed.processesPerNode", spec.distributed.processes_per_node, ("auto", 1))
    if spec.resources.accelerator:
        yield from _outside("resources.accelerator.count", spec.resources.accelerator.count, (1,))
    if spec.task in HEAD_FORMATS:
        asked = {"method.adapters": spec.method.adapters, "method.continueFrom": spec.method.continue_from}
        yield from (f"{field} with task={spec.task}" for field, value in asked.items() if value)
    yield from _sources(spec)
    yield from _credentials(spec)
    yield from _present(spec)
    yield from _exports(spec)
    yield from _destination(spec)


def _sources(spec: FineTuneJobSpec) -> Iterator[str]:
    for field, source in sources(spec).items():
        scheme = _scheme(source.source)
        yield from _outside(f"{field}.source", scheme, SOURCE_SCHEMES)
        if not isinstance(source, DataSource) and source.revision and scheme != "hf":
            yield f"{field}.revision={source.revision} with {scheme}://"


def _credentials(spec: FineTuneJobSpec) -> Iterator[str]:
    """A Secret becomes environment variables, so two of them for one kind of source would hide each other."""
    used: dict[str, str] = {}
    for field, source in sources(spec).items():
        if source.credentials is None:
            continue
        secret, scheme = source.credentials.secret_ref, _scheme(source.source)
        if used.setdefault(scheme, secret) != secret:
            yield f"{field}.credentials={secret} beside {used[scheme]} for {scheme}://"


def _present(spec: FineTuneJobSpec) -> Iterator[str]:
    asked = {
        "distributed.minNodes": spec.distributed.min_nodes,
        "model.trustRemoteCode": spec.model.trust_remote_code,
    }
    yield from (field for field, value in asked.items() if value)


def _exports(spec: FineTuneJobSpec) -> Iterator[str]:
    for i, export in enumerate(spec.exports):
        yield from _outside(f"exports[{i}].format", export.format, EXPORT_FORMATS)
        onnx = HEAD_ONNX_PRECISIONS if spec.task in HEAD_FORMATS else ONNX_PRECISIONS
        precisions = onnx if export.format == "onnx" else SAFETENSORS_PRECISIONS
        yield from _outside(f"exports[{i}].precision", export.precision, precisions)
        if export.format == "onnx":
            yield from _outside(f"exports[{i}].device", export.device, ("cpu",))
            yield from _outside(f"exports[{i}].provider", export.provider, ONNX_PROVIDERS)


def _destination(spec: FineTuneJobSpec) -> Iterator[str]:
    destination = spec.output.destination
    if destination:
        yield from _outside("output.destination", _scheme(destination), DESTINATION_SCHEMES)
    if spec.output.credentials and (not destination or _scheme(destination) == "pvc"):
        where = "pvc://" if destination else "no output.destination"
        yield f"output.credentials={spec.output.credentials.secret_ref} with {where}"


def _outside(field: str, value: object, supported: tuple[object, ...]) -> Iterator[str]:
    if value not in supported:
        yield f"{field}={value}"


def _scheme(uri: str) -> str:
    return uri.partition("://")[0]
