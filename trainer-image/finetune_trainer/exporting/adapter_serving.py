"""What the model card says of adapters on vLLM: the command that serves them, or why there is none. Pure."""

from typing import Any

from finetune_api.adapters import adapter_specs
from finetune_api.spec import FineTuneJobSpec

_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank may be, from its default on (MaxLoRARanks in vllm/config/lora.py)."""
_REFUSED = {"dora": "DoRA", "adapter": "IA3"}
"""Methods whose adapters vLLM does not load."""


def serve_adapter(name: str, base: str, report: dict[str, Any]) -> str:
    """How to serve the adapter `name`, an artefact of the report's job."""
    spec = FineTuneJobSpec.model_validate(report["spec"])
    if cause := _refusal(name, spec):
        way_out = "it serves the merged model, an export of `format: safetensors`"
        return f"vLLM does not load this adapter ({cause}); {way_out}."
    return _command([name], base, spec)


def serve_adapters(base: str, report: dict[str, Any]) -> str:
    """How to serve all adapters of a job that made several on one server, which loads the base once; else nothing."""
    spec = FineTuneJobSpec.model_validate(report["spec"])
    names = [artifact["name"] for artifact in report["artifacts"] if artifact["format"] == "peft"]
    served = [name for name in names if not _refusal(name, spec)]
    if not spec.method.adapters or len(served) < 2:
        return ""
    return f"## Serving all adapters on one base\n\n{_command(served, base, spec)}"


def _refusal(name: str, spec: FineTuneJobSpec) -> str:
    """Why vLLM does not load the adapter; empty when it does."""
    method = spec.method
    if method.type in _REFUSED:
        return f"it takes LoRA, not {_REFUSED[method.type]}"
    if method.modules_to_save:
        return f"modules are trained whole: {', '.join(f'`{module}`' for module in method.modules_to_save)}"
    if (rank := _rank(name, spec)) > _RANKS[-1]:
        return f"its rank is {rank}, above {_RANKS[-1]}"
    return ""


def _command(names: list[str], base: str, spec: FineTuneJobSpec) -> str:
    options = [f"--max-loras {len(names)}"] if len(names) > 1 else []
    largest = max(_rank(name, spec) for name in names)
    if largest > _RANKS[0]:
        options.append(f"--max-lora-rank {min(rank for rank in _RANKS if rank >= largest)}")
    modules = " ".join(f"{name}=./{name}" for name in names)
    return f"```sh\n{' '.join([f'vllm serve {base} --enable-lora', *options, '--lora-modules', modules])}\n```"


def _rank(name: str, spec: FineTuneJobSpec) -> int:
    """Rank in the published adapter_config.json, where an update that did not start at zero has twice its own."""
    ranks = {export.name: part.method.rank for part in adapter_specs(spec).values() for export in part.exports}
    rank = ranks.get(name, spec.method.rank)
    return rank if spec.method.initialization == "default" else 2 * rank
