"""job://name, continuous tuning: which artefact of which job that means, and whether it is there yet.

In model.source it is a whole model, which is tuned on; in method.continueFrom.source an adapter, which is trained on.
Decided once, before the first stage starts, and pinned in status.lineage: the other job may be deleted afterwards.
"""

from dataclasses import dataclass
from typing import Any

from finetune_api.conditions import Reason
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import LINEAGE_LIMIT, Ancestor, Artifact, FineTuneJobStatus, Phase
from finetune_operator.core.checks import Failure
from finetune_operator.core.observed import Manifest, Observed
from finetune_operator.core.status import load_status

SCHEME = "job://"
_TO_COME = "pvc://artefact/to-come"
"""A place that this version can read from, so that all else of the spec is judged before the wait."""


@dataclass(frozen=True)
class Awaited:
    """The other job has not published its model yet."""

    message: str


@dataclass(frozen=True)
class _Wanted:
    """What a field of the spec takes of another job."""

    field: str
    format: str
    """Format of the artefact."""
    use: str
    """What can be done with such an artefact only."""


_MODEL = _Wanted("model.source", "safetensors", "what can be tuned on is a whole model")
_ADAPTER = _Wanted("method.continueFrom.source", "peft", "what can be continued is an adapter")


def awaited_parent(job: Manifest) -> str:
    """Name of the job whose artefact is still to be looked up; empty when there is none."""
    pinned = (job.get("status") or {}).get("lineage")
    uris = (_at(job.get("spec"), wanted.field) for wanted in (_MODEL, _ADAPTER))
    return "" if pinned else next((uri.removeprefix(SCHEME) for uri in uris if uri.startswith(SCHEME)), "")


def _at(document: Any, path: str) -> str:  # noqa: ANN401 - what a user wrote
    for part in path.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document if isinstance(document, str) else ""


def trace(spec: FineTuneJobSpec, status: FineTuneJobStatus, observed: Observed) -> list[Ancestor] | Awaited | Failure:
    """The jobs that the model or the continued adapter comes from, the nearest first; none for one that no job made."""
    wanted = _wanted(spec)
    if status.lineage or wanted is None:
        return status.lineage
    name = _source(spec, wanted).removeprefix(SCHEME)
    if name == observed.job["metadata"]["name"]:
        return Failure(Reason.INVALID_SPEC, f"{wanted.field}: {SCHEME}{name} names this very job")
    if observed.parent is None:
        return Awaited(f"waiting for FineTuneJob {name}, which does not exist in this namespace yet")
    return _published(wanted, name, observed.parent)


def _wanted(spec: FineTuneJobSpec) -> _Wanted | None:
    return next((wanted for wanted in (_MODEL, _ADAPTER) if _source(spec, wanted).startswith(SCHEME)), None)


def _source(spec: FineTuneJobSpec, wanted: _Wanted) -> str:
    if wanted is _MODEL:
        return spec.model.source
    return spec.method.continue_from.source if spec.method.continue_from else ""


def _published(wanted: _Wanted, name: str, parent: Manifest) -> list[Ancestor] | Awaited | Failure:
    status = load_status(parent)
    if status.phase is Phase.FAILED:
        message = f"{wanted.field}: {SCHEME}{name} has failed: {status.message}"
        return Failure(Reason.PARENT_FAILED, message[:1024])
    if status.phase is not Phase.SUCCEEDED:
        return Awaited(f"waiting for FineTuneJob {name}, which has published nothing yet ({status.phase})")
    artifact = next((artifact for artifact in status.artifacts if artifact.format == wanted.format), None)
    if status.plan is not None and status.plan.adapters:
        return Failure(Reason.INVALID_MODEL, _ambiguous(wanted, name, status, artifact))
    if artifact is None:
        made = ", ".join(a.format for a in status.artifacts) or "nothing"
        return Failure(
            Reason.INVALID_MODEL,
            f"{wanted.field}: {SCHEME}{name} has published {made}, and {wanted.use}: give it an export of format "
            f"{wanted.format}",
        )
    return [_ancestor(wanted, name, parent, status, artifact), *status.lineage][:LINEAGE_LIMIT]


def _ancestor(wanted: _Wanted, name: str, parent: Manifest, status: FineTuneJobStatus, artifact: Artifact) -> Ancestor:
    base = status.plan.model.digest if wanted is _ADAPTER and status.plan else ""
    return Ancestor(
        job=name,
        uid=parent["metadata"]["uid"],
        artifact=artifact.name,
        uri=artifact.uri,
        digest=artifact.digest,
        base_digest=base,
    )


def _ambiguous(wanted: _Wanted, name: str, parent: FineTuneJobStatus, artifact: Artifact | None) -> str:
    """Of several adapters none is the job's one model."""
    adapters = ", ".join(adapter.name for adapter in parent.plan.adapters) if parent.plan else ""
    way_out = f"name the folder of the one that is meant in {wanted.field}"
    if artifact is None:
        way_out = f"give it an export of format {wanted.format}, and {way_out}"
    else:
        way_out = f"{way_out}, as in {artifact.uri}"
    return f"{wanted.field}: {SCHEME}{name} has trained several adapters ({adapters}); {way_out}"


def with_places(spec: FineTuneJobSpec, lineage: list[Ancestor] | Awaited) -> FineTuneJobSpec:
    """The spec with the place of the artefact in place of the name of the job that made it."""
    wanted = _wanted(spec)
    if wanted is None:
        return spec
    place = {"source": _TO_COME if isinstance(lineage, Awaited) else lineage[0].uri}
    if wanted is _MODEL:
        return spec.model_copy(update={"model": spec.model.model_copy(update=place)})
    continued = spec.method.continue_from and spec.method.continue_from.model_copy(update=place)
    return spec.model_copy(update={"method": spec.method.model_copy(update={"continue_from": continued})})
