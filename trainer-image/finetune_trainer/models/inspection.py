"""What a model is, without its weights: architecture, context, shapes, parameters, linear layers.

Loads configuration only. The model is built on the meta device, which allocates nothing, so a large model is inspected
as fast as a small one.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finetune_trainer.errors import InvalidModelError, InvalidSpecError
from finetune_trainer.models.safetensors_check import TensorHeader

_UNKNOWN_CONTEXT = 2048
"""Context in tokens of a model whose configuration names none."""
HEAD_MODULES = ("score", "classifier")
"""Names of heads of classes in transformers; PEFT saves modules of these names with the adapter."""


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer: its full name and its widths."""

    name: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class ModelFacts:
    """What the plan needs to know about a model."""

    architecture: str
    parameters: int
    context_length: int
    hidden_size: int
    intermediate_size: int
    layers: int
    vocabulary: int
    heads: int
    query_width: int
    """Heads times head size."""
    key_value_width: int
    caps_attention: bool
    """Whether attention scores pass through a soft cap, as in Gemma 2."""
    linear_layers: tuple[LinearLayer, ...]
    """All but the output head, in order."""
    module_elements: dict[str, int]
    """Parameters of each named module that has some of its own, by full name."""
    other_modules: tuple[str, ...] = ()
    """Full names of all modules but the linear layers: the output head, norms, activations, whole blocks."""
    head: str = ""
    """Name of the head of classes, which is trained whole; empty for a language model."""

    @property
    def linear_names(self) -> list[str]:
        """Last parts of the linear layers' names, each once, as PEFT's target_modules wants them."""
        return sorted({layer.name.rpartition(".")[2] for layer in self.linear_layers})


def inspect_model(
    folder: Path, tensors: Iterable[TensorHeader], uri: str, skeleton_of: Callable[[], Any] | None = None
) -> ModelFacts:
    """Facts of the model in `folder`, whose files hold `tensors`.

    `skeleton_of` makes the model without weights, once its configuration is known to be one; by default a causal
    language model.
    Raises InvalidModelError for an unknown architecture, a quantized model, or files that do not belong together.
    """
    config = _config(folder, uri)
    skeleton = skeleton_of() if skeleton_of else _skeleton(config, uri)
    _check_tensors(skeleton, [*tensors], uri)
    return _facts(config, skeleton)


def _config(folder: Path, uri: str) -> Any:  # noqa: ANN401 - a configuration of any family
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from finetune_trainer.models.config_filter import read_json

    document = read_json(folder / "config.json", f"{uri}: config.json")
    kind = document.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        close = get_close_matches(str(kind), CONFIG_MAPPING_NAMES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InvalidModelError(f"{uri}: config.json: model_type {kind!r} is not an architecture known here{hint}")
    if document.get("quantization_config"):
        method = document["quantization_config"].get("quant_method", "an unknown method")
        raise InvalidModelError(f"{uri} is quantized ({method}); tune the unquantized model that it was made from")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise InvalidModelError(f"{uri}: config.json cannot be used: {error}") from error


def _skeleton(config: Any, uri: str) -> Any:  # noqa: ANN401 - any model
    import torch
    from transformers import AutoModelForCausalLM

    if type(config) not in AutoModelForCausalLM._model_mapping:  # noqa: SLF001 - there is no public question
        raise InvalidModelError(
            f"{uri}: {config.model_type} is not a causal language model; text generation needs a decoder such as "
            "Llama, Qwen, Phi or Gemma"
        )
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, RuntimeError, TypeError, AttributeError, ImportError, ZeroDivisionError) as error:
        raise InvalidModelError(f"{uri}: config.json describes no model that can be built: {error}") from error


def _check_tensors(skeleton: Any, tensors: list[TensorHeader], uri: str) -> None:  # noqa: ANN401 - any model
    wanted = {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
    for tensor in tensors:
        shape = wanted.get(tensor.name)
        if shape is not None and shape != tensor.shape:
            raise InvalidModelError(
                f"{uri}: tensor {tensor.name} has shape {list(tensor.shape)} where config.json asks for {list(shape)}: "
                "configuration and weights do not belong together"
            )
    held, needed = sum(tensor.elements for tensor in tensors), skeleton.num_parameters()
    if held < needed:
        raise InvalidModelError(
            f"{uri}: its safetensors files hold {held} numbers where config.json asks for {needed}: weights are missing"
        )


def _facts(config: Any, skeleton: Any) -> ModelFacts:  # noqa: ANN401 - any model
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    groups = getattr(text, "num_key_value_heads", None) or heads
    context = getattr(text, "max_position_embeddings", None) or _UNKNOWN_CONTEXT
    linear = tuple(_linear_layers(skeleton))
    return ModelFacts(
        architecture=type(skeleton).__name__,
        parameters=skeleton.num_parameters(),
        context_length=int(context),
        hidden_size=text.hidden_size,
        intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
        heads=heads,
        query_width=heads * head_size,
        key_value_width=groups * head_size,
        caps_attention=bool(getattr(text, "attn_logit_softcapping", None)),
        linear_layers=linear,
        module_elements=module_elements(skeleton),
        other_modules=other_modules(skeleton, linear),
    )


def _linear_layers(skeleton: Any) -> Iterable[LinearLayer]:  # noqa: ANN401 - any model
    import torch

    head = skeleton.get_output_embeddings()
    for name, module in skeleton.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head and name not in HEAD_MODULES:
            yield LinearLayer(name, module.in_features, module.out_features)


def other_modules(skeleton: Any, layers: Iterable[LinearLayer]) -> tuple[str, ...]:  # noqa: ANN401 - any model
    """Full names of the modules of `skeleton` that are none of `layers`."""
    names = {layer.name for layer in layers}
    return tuple(name for name, _ in skeleton.named_modules() if name and name not in names)


def module_elements(skeleton: Any) -> dict[str, int]:  # noqa: ANN401 - any model
    """Parameters of each named module of `skeleton` that has some of its own, by full name."""
    own = {name: sum(p.numel() for p in module.parameters()) for name, module in skeleton.named_modules() if name}
    return {name: elements for name, elements in own.items() if elements}


def adapted_layers(facts: ModelFacts, targets: str | list[str]) -> list[LinearLayer]:
    """The linear layers that `targets` (auto, names, or a regular expression over full names) means.

    Raises InvalidSpecError naming method.targetModules when a name or the expression matches none, or the expression
    matches another module too: PEFT would adapt an output head unplanned, and stop at a norm.
    """
    if targets == "auto" or not facts.linear_layers:
        return [*facts.linear_layers]
    if isinstance(targets, str):
        return _matching(facts, targets)
    chosen = [layer for layer in facts.linear_layers if _named(layer.name, targets)]
    for target in targets:
        if not any(_named(layer.name, [target]) for layer in chosen):
            close = get_close_matches(target, facts.linear_names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InvalidSpecError(
                f"method.targetModules: {facts.architecture} has no linear layer {target!r}{hint} "
                f"(it has {', '.join(facts.linear_names)})"
            )
    return chosen


def _matching(facts: ModelFacts, expression: str) -> list[LinearLayer]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise InvalidSpecError(f"method.targetModules: {expression!r} is not a regular expression: {error}") from error
    chosen = [layer for layer in facts.linear_layers if pattern.fullmatch(layer.name)]
    if not chosen:
        raise InvalidSpecError(
            f"method.targetModules: {expression!r} matches no linear layer; full names look like "
            f"{facts.linear_layers[0].name}"
        )
    if others := [name for name in facts.other_modules if pattern.fullmatch(name)]:
        raise InvalidSpecError(
            f"method.targetModules: {expression!r} matches {others[0]} too, which is no linear layer that an adapter "
            f"may sit on ({len(others)} such modules); narrow it to names like {chosen[0].name}"
        )
    return chosen


def _named(name: str, targets: list[str]) -> bool:
    """Whether a full name is one of `targets` or ends with it after a dot, as PEFT decides."""
    return any(name == target or name.endswith(f".{target}") for target in targets)
