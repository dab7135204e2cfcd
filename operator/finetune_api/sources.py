"""What a job reads: its model, the adapter that it continues, its rows. Pure."""

from finetune_api.spec import AdapterSource, DataSource, FineTuneJobSpec, ModelSpec

Source = ModelSpec | AdapterSource | DataSource


def sources(spec: FineTuneJobSpec) -> dict[str, Source]:
    """Everything that stage prepare reads, by the field that names it: model, method.continueFrom and data_sources."""
    continued = spec.method.continue_from
    return {
        "model": spec.model,
        **({"method.continueFrom": continued} if continued else {}),
        **data_sources(spec),
    }


def data_sources(spec: FineTuneJobSpec) -> dict[str, DataSource]:
    """Every source of rows by the field that names it, as in `method.adapters[billing].dataset`."""
    named = {"dataset.train": spec.dataset.train, "dataset.eval": spec.dataset.eval}
    for adapter in spec.method.adapters:
        field = f"method.adapters[{adapter.name}]"
        named |= {f"{field}.dataset": adapter.dataset, f"{field}.eval": adapter.eval}
    return {field: source for field, source in named.items() if source is not None}
