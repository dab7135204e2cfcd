"""model.source: job://name, continuous tuning: which artefact of which job that means, and whether it is there yet.

Decided once, before the first stage starts, and pinned in status.lineage: the other job may be deleted afterwards.
"""

from dataclasses import dataclass

from finetune_api.conditions import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import LINEAGE_LIMIT, Ancestor, Artifact, FineTuneJobStatus, Phase
from finetune_operator.core.checks import Failure
from finetune_operator.core.observed import Manifest, Observed
from finetune_operator.core.status import load_status

SCHEME = "job://"
_TO_COME = "pvc://artefact/to-come"


@dataclass(frozen=True)
class Awaited:
    """The other job has not published its model yet."""

    message: str


def awaited_parent(job: Manifest) -> str:
    """Name of the job whose model is still to be looked up; empty when there is none."""
    source = str(((job.get("spec") or {}).get("model") or {}).get("source") or "")
    pinned = (job.get("status") or {}).get("lineage")
    return source.removeprefix(SCHEME) if source.startswith(SCHEME) and not pinned else ""


def trace(spec: FineTuneJobSpec, status: FineTuneJobStatus, observed: Observed) -> list[Ancestor] | Awaited | Failure:
    """The jobs that the model comes from, the nearest first; none for a model that no job made."""
    if status.lineage or not spec.model.source.startswith(SCHEME):
        return status.lineage
    name = spec.model.source.removeprefix(SCHEME)
    if name == observed.job["metadata"]["name"]:
        return Failure(Reason.INVALID_SPEC, f"model.source: {SCHEME}{name} names this very job")
    if observed.parent is None:
        return Awaited(f"waiting for FineTuneJob {name}, which does not exist in this namespace yet")
    return _published(name, observed.parent)


def _published(name: str, parent: Manifest) -> list[Ancestor] | Awaited | Failure:
    status = load_status(parent)
    if status.phase is Phase.FAILED:
        message = f"model.source: {SCHEME}{name} has failed: {status.message}"
        return Failure(Reason.PARENT_FAILED, message[:1024])
    if status.phase is not Phase.SUCCEEDED:
        return Awaited(f"waiting for FineTuneJob {name}, whose model is not published yet ({status.phase})")
    if status.plan is not None and status.plan.adapters:
        return Failure(Reason.INVALID_MODEL, _ambiguous(name, status))
    artifact = next(filter(_can_be_tuned, status.artifacts), None)
    if artifact is None:
        made = ", ".join(a.format for a in status.artifacts) or "nothing"
        return Failure(
            Reason.INVALID_MODEL,
            f"model.source: {SCHEME}{name} has published {made}, and what can be tuned on is a whole model: give it an "
            "export of format safetensors",
        )
    nearest = Ancestor(
        job=name, uid=parent["metadata"]["uid"], artifact=artifact.name, uri=artifact.uri, digest=artifact.digest
    )
    return [nearest, *status.lineage][:LINEAGE_LIMIT]


def _ambiguous(name: str, parent: FineTuneJobStatus) -> str:
    """Of several adapters none is the job's one model."""
    adapters = ", ".join(adapter.name for adapter in parent.plan.adapters) if parent.plan else ""
    whole = next(filter(_can_be_tuned, parent.artifacts), None)
    way_out = (
        f"name the folder of the one that is meant in model.source, as in {whole.uri}"
        if whole
        else "give it an export of format safetensors, and name the folder of the one that is meant in model.source"
    )
    return f"model.source: {SCHEME}{name} has trained several adapters ({adapters}); {way_out}"


def _can_be_tuned(artifact: Artifact) -> bool:
    return artifact.format == "safetensors"


def with_model(spec: FineTuneJobSpec, lineage: list[Ancestor] | Awaited) -> FineTuneJobSpec:
    """The spec with the place of the model in place of the name of the job that made it."""
    if not spec.model.source.startswith(SCHEME):
        return spec
    place = _TO_COME if isinstance(lineage, Awaited) else lineage[0].uri
    return spec.model_copy(update={"model": spec.model.model_copy(update={"source": place})})
