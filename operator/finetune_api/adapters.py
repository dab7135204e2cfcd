"""Several adapters on one shared base: what each of them is, as the spec of a job that trains it alone. Pure."""

from finetune_api.spec import Export, FineTuneJobSpec, NamedAdapter

NAME_LIMIT = 63
"""Characters of an artefact's name."""


def adapter_specs(spec: FineTuneJobSpec) -> dict[str, FineTuneJobSpec]:
    """The spec of each of method.adapters by its name, in their order; empty for a job of one adapter or of none.

    Such a spec has the adapter's rows in dataset.train and dataset.eval, its rank and alpha, its artefacts by their
    final names in exports, and no method.adapters: it is handled like any other job.
    """
    return {adapter.name: _adapter_spec(spec, adapter) for adapter in spec.method.adapters}


def _adapter_spec(spec: FineTuneJobSpec, adapter: NamedAdapter) -> FineTuneJobSpec:
    rank = adapter.rank or spec.method.rank
    alpha = adapter.alpha or rank * spec.method.alpha / spec.method.rank
    return spec.model_copy(
        update={
            "dataset": spec.dataset.model_copy(update={"train": adapter.dataset, "eval": adapter.eval}),
            "method": spec.method.model_copy(update={"rank": rank, "alpha": alpha, "adapters": []}),
            "exports": _exports(spec, adapter),
        }
    )


def _exports(spec: FineTuneJobSpec, adapter: NamedAdapter) -> list[Export]:
    if not spec.exports:
        return [Export(name=adapter.name, format="peft")]
    # Not validated: a name that is too long is for name_conflict to tell, in words that say what to do.
    return [export.model_copy(update={"name": f"{adapter.name}-{export.name}"}) for export in spec.exports]


def name_conflict(spec: FineTuneJobSpec) -> str | None:
    """What is wrong with the names that adapters and exports give to artefacts, with the way out; None when all fit."""
    seen: set[str] = set()
    for part in adapter_specs(spec).values():
        for name in (export.name for export in part.exports):
            if len(name) > NAME_LIMIT:
                return (
                    f"method.adapters and exports: the artefact {name} would have a name of {len(name)} characters; "
                    f"{NAME_LIMIT} are allowed: shorten the adapter's name or the export's"
                )
            if name in seen:
                return f"method.adapters and exports: two artefacts would be named {name}; rename one of them"
            seen.add(name)
    return None
