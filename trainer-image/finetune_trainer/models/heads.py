"""A head of classes on a decoder: which families have one, how it is configured and started, and its logits.

The head is a linear layer on hidden states, always in float32. Which tokens have a class is told by a mask and never
by the id of the padding token, which for many decoders is the end-of-sequence token too. Must not read weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from finetune_api.heads import HEAD_FORMATS
from finetune_trainer.data.storage import class_names_of
from finetune_trainer.errors import InvalidModelError, NotSupportedError, SourceNotFoundError
from finetune_trainer.models.config_filter import read_json
from finetune_trainer.models.inspection import (
    HEAD_MODULES,
    ModelFacts,
    inspect_model,
    module_elements,
    other_modules,
)
from finetune_trainer.models.safetensors_check import TensorHeader
from finetune_trainer.paths import shortened
from finetune_trainer.run import Run

AUTO_CLASSES: dict[str, Any] = {
    "classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}
_ENDINGS = {"ForSequenceClassification": "classification", "ForTokenClassification": "token-classification"}
"""Of the class that a model was saved as, by which it is told from a language model."""
_CONTINUED = "score"
"""Name of the heads that are known to be a linear layer on the hidden states: a classifier of BERT has a pooler before
it."""
_UNNAMED = {"0": "LABEL_0", "1": "LABEL_1"}
"""id2label where config.json has none: transformers leaves out its default."""
PEFT_TASKS = {"classification": "SEQ_CLS", "token-classification": "TOKEN_CLS"}
_STANDARD_DEVIATION = 0.02
"""Of a head's start, for a family whose configuration names none."""


@dataclass(frozen=True)
class Head:
    """The head of a job."""

    task: str
    classes: tuple[str, ...]
    pad_token_id: int
    """Of the tokenizer: transformers looks for the last other token."""
    is_new: bool = True
    """Whether the job's model comes without it."""

    @property
    def auto_class(self) -> Any:  # noqa: ANN401 - transformers' classes have no common type
        """What loads a model with such a head."""
        return AUTO_CLASSES[self.task]

    def config(self, folder: Path) -> Any:  # noqa: ANN401 - a configuration of any family
        """The configuration of the model in `folder` with this head. There is no dropout before it."""
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config.id2label = dict(enumerate(self.classes))
        config.label2id = {name: number for number, name in enumerate(self.classes)}
        config.pad_token_id = self.pad_token_id
        config.classifier_dropout = 0.0
        return config


def head_of(run: Run) -> Head | None:
    """The head of this job, with the classes of the rows that prepare wrote; None for a task without one.

    Raises SourceNotFoundError when prepare has not run.
    """
    if run.spec.task not in HEAD_FORMATS:
        return None
    from datasets import load_from_disk

    from finetune_trainer.models.load import load_tokenizer

    if not run.workspace.train_rows.is_dir():
        raise SourceNotFoundError(f"{run.workspace.train_rows} is missing: stage prepare must run first")
    classes = class_names_of(load_from_disk(str(run.workspace.train_rows)))
    is_new = kept_head(run.workspace.model, run.spec.model.source) is None
    return Head(run.spec.task, classes, int(load_tokenizer(run.workspace.model).pad_token_id), is_new)


@dataclass(frozen=True)
class KeptHead:
    """The head that a model comes with, as a classifier does that another job has published."""

    task: str
    classes: tuple[str, ...]


def kept_head(folder: Path, uri: str) -> KeptHead | None:
    """The head of the model in `folder`; None for a language model. Raises InvalidModelError for one of no classes."""
    document = read_json(folder / "config.json", f"{uri}: config.json")
    names = document.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    task = next((task for ending, task in _ENDINGS.items() if name.endswith(ending)), None)
    if task is None:
        return None
    labels, kind = document.get("id2label", _UNNAMED), document.get("problem_type")
    labels = labels if isinstance(labels, dict) else {}
    classes = [label for i in range(len(labels)) if isinstance(label := labels.get(str(i)), str)]
    if len(classes) < 2 or len(classes) != len(labels):
        raise InvalidModelError(f"{uri}: config.json: id2label does not name the classes of {name}, from 0 on")
    if kind in ("regression", "multi_label_classification"):
        raise InvalidModelError(f"{uri}: config.json: problem_type: {kind}; only a head that tells one class is tuned")
    return KeptHead(task, tuple(classes))


def inspect_source(folder: Path, tensors: Sequence[TensorHeader], task: str, uri: str) -> ModelFacts:
    """Facts of the model in `folder`, a language model or one with the head that `task` needs.

    Raises InvalidModelError, and NotSupportedError when its family has no head for `task`.
    """
    kept = kept_head(folder, uri)
    if kept is None:
        facts = inspect_model(folder, tensors, uri)
        if task in HEAD_FORMATS:
            _skeleton(folder, Head(task, ("a", "b"), 0), uri)
        return facts
    if kept.task != task:
        raise NotSupportedError(
            f"{uri} is no language model: it has a head for task: {kept.task} with the classes "
            f"{shortened(kept.classes)}; set task: {kept.task}, or name the language model that it was made from"
        )
    return inspect_model(folder, tensors, uri, lambda: _continued_skeleton(folder, kept, uri))


def _continued_skeleton(folder: Path, kept: KeptHead, uri: str) -> Any:  # noqa: ANN401 - any model
    skeleton = _skeleton(folder, Head(kept.task, kept.classes, 0, is_new=False), uri)
    if not hasattr(skeleton, _CONTINUED):
        raise NotSupportedError(
            f"{uri}: the head of {type(skeleton).__name__} cannot be tuned further, only a linear layer called "
            f"{_CONTINUED} can; name the language model that it was made from"
        )
    return skeleton


def with_head(facts: ModelFacts, folder: Path, task: str, classes: Sequence[str], uri: str) -> ModelFacts:
    """`facts` of the model in `folder` with a head for `classes` in place of its words; without classes as they are."""
    if not classes:
        return facts
    skeleton = _skeleton(folder, Head(task, tuple(classes), 0), uri)
    head = head_name(skeleton)
    others = other_modules(skeleton, facts.linear_layers)
    return replace(
        facts,
        architecture=type(skeleton).__name__,
        parameters=skeleton.num_parameters(),
        module_elements=module_elements(skeleton),
        other_modules=tuple(name for name in others if name != head),  # which no expression adapts (adapters.py)
        head=head,
    )


def _skeleton(folder: Path, head: Head, uri: str) -> Any:  # noqa: ANN401 - any model
    config = head.config(folder)
    known = type(config) in head.auto_class._model_mapping  # noqa: SLF001 - there is no public question
    if not known or config.get_text_config() is not config:
        raise NotSupportedError(
            f"{uri}: {config.model_type} has no head for task: {head.task} in the installed transformers; choose a "
            "model of another family, such as Llama, Qwen or Phi, or teach the answers as words with task: completion"
        )
    if hasattr(config, "output_router_logits"):
        raise NotSupportedError(
            f"{uri}: {config.model_type} is a mixture of experts, whose load nothing would balance under a head for "
            f"task: {head.task}; choose a dense model"
        )
    with torch.device("meta"):
        return head.auto_class.from_config(config, trust_remote_code=False)


def head_name(model: Any) -> str:  # noqa: ANN401 - any model with a head
    """Name of the head's module, as PEFT's modules_to_save wants it."""
    return next(name for name in HEAD_MODULES if hasattr(model, name))


def head_module(model: PreTrainedModel) -> torch.nn.Module:
    """The head of `model`, or of the model under its adapter."""
    whole = _whole(model)
    found: torch.nn.Module = getattr(whole, head_name(whole))
    return found


def start_head(model: PreTrainedModel, seed: int) -> None:
    """Give the head of `model` start values that follow from `seed` alone."""
    head = head_module(model)
    spread = getattr(model.config, "initializer_range", None) or _STANDARD_DEVIATION
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in head.named_parameters():
        values = torch.zeros(parameter.shape)
        if name == "weight":
            values.normal_(std=spread, generator=generator)
        parameter.data = values.to(parameter.device)


def class_logits(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, told: torch.Tensor
) -> torch.Tensor:
    """Logits float32 [tokens, classes] at the tokens that `told` marks; all inputs are [rows, length], padded right."""
    hidden = _whole(model).base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    with torch.autocast(input_ids.device.type, enabled=False):
        logits: torch.Tensor = head_module(model)(hidden.last_hidden_state[told].float())
    return logits


def _whole(model: PreTrainedModel) -> PreTrainedModel:
    whole: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
    return whole
