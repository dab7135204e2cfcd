"""The parity gate: what an artefact must show before it is published.

Every format must compute the tuned model's logits within its limits. An ONNX model must also generate, tokenize and
render chats like the tuned model, through the library that applications use. Decides; must not write artefacts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from finetune_api.spec import Export, ParityLimits
from finetune_api.status import Parity
from finetune_trainer.errors import ParityError, StageError
from finetune_trainer.exporting.formats import Opened
from finetune_trainer.exporting.onnx_runtime import GenaiModel, OnnxModel
from finetune_trainer.exporting.parity import Comparison, greedy_gap, limits, violations
from finetune_trainer.exporting.reference import NEW_TOKENS, Continuation, Reference

EXACT_GAP = 2e-3
"""fp32: how far below the highest logit a greedily chosen token may lie; two runs of one sum differ by less."""
MEAN_GAP = 0.5
"""int8 and int4: mean over steps of the same, in nats. A graph with a broken cache is several nats off."""
CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Grüße! What is 2 + 2?"}],
    [
        {"role": "user", "content": "Say A.\nThen stop."},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": 'And "B" <b>?'},
    ],
)
"""Chats whose rendering is compared: turns, line breaks, quotes, markup and letters outside ASCII."""


@dataclass(frozen=True)
class Proof:
    """What the gate measured on an artefact that passed."""

    parity: Parity
    checks: dict[str, Any] = field(default_factory=dict)
    """Further checks, for the report."""
    tokens_per_second: float | None = None


def opened(export: Export, open_artefact: Callable[[], Opened]) -> Opened:
    """Open the artefact as its users will. Raises ParityError when its runtime refuses it."""
    try:
        return open_artefact()
    except (StageError, MemoryError):
        raise
    except Exception as error:
        raise _error(export, f"it cannot be loaded ({error})") from error


def prove_logits(export: Export, precision: str, model: Opened, reference: Reference) -> Proof:
    """Compare logits. Raises ParityError naming the export, the measured value and the limit."""
    bounds = limits(precision, export.parity)
    comparison = Comparison()
    for probe, expected in reference.parts():
        for start, got in model(probe):
            stop = start + len(got)
            comparison.add(np.asarray(expected[start:stop]), got, np.array(probe.targets[start:stop]))
    measured = comparison.result(bounds)
    if found := violations(measured, bounds):
        raise _error(export, "; ".join(found), bounds)
    return Proof(measured, {"positions": comparison.positions})


def prove_application(
    export: Export, folder: Path, threads: int, reference: Reference, tokenizer: PreTrainedTokenizerBase
) -> Proof:
    """Generation, tokenizer and chat template of an ONNX model as an application sees them. Raises ParityError."""
    model, graph = GenaiModel(folder, threads), OnnxModel(folder, threads)
    exact = (export.precision or "fp32") == "fp32"
    checks = {
        "greedyGap": max(_prove_greedy(export, model, graph, known, exact) for known in reference.continuations),
        "tokenizedTexts": _prove_tokenizer(export, model, tokenizer, reference),
        "renderedChats": _prove_template(export, model, tokenizer),
    }
    speed = model.tokens_per_second(reference.continuations[0].prompt)
    return Proof(Parity(passed=True), checks, speed)


def _prove_greedy(export: Export, model: GenaiModel, graph: OnnxModel, known: Continuation, exact: bool) -> float:
    """The answer must follow from the graph's logits, and for fp32 be the tuned model's; returns the largest gap."""
    answer = model.answer(known.prompt, NEW_TOKENS)
    logits = graph.logits_at([*known.prompt, *answer], _predicting(known.prompt, answer))
    gaps = [greedy_gap(logits[i : i + 1], answer[i : i + 1]) for i in range(len(answer))]
    worst, mean = max(gaps), sum(gaps) / len(gaps)
    if not (worst <= EXACT_GAP if exact else mean <= MEAN_GAP):
        raise _error(export, f"greedy generation strays {worst:.3g} from the graph's own logits")
    if exact and (step := _first_difference(answer, known.answer, logits)) is not None:
        raise _error(export, f"greedy generation differs from the tuned model's at token {step}")
    return worst


def _predicting(prompt: Sequence[int], answer: Sequence[int]) -> range:
    return range(len(prompt) - 1, len(prompt) - 1 + len(answer))


def _first_difference(got: Sequence[int], want: Sequence[int], logits: np.ndarray) -> int | None:
    """Step of the first token that differs and is not a tie; None when there is none."""
    for step, (ours, theirs) in enumerate(zip(got, want, strict=False)):
        if ours != theirs:
            return None if greedy_gap(logits[step : step + 1], [theirs]) <= EXACT_GAP else step
    return None if len(got) == len(want) else min(len(got), len(want))


def _prove_tokenizer(
    export: Export, model: GenaiModel, tokenizer: PreTrainedTokenizerBase, reference: Reference
) -> int:
    texts = [tokenizer.decode(known.prompt + known.answer) for known in reference.continuations]
    texts += [message["content"] for chat in CONVERSATIONS for message in chat]
    for text in texts:
        got, want = model.encode(text), list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if got != want:
            raise _error(
                export, f"the tokenizer of onnxruntime-genai gives {got[:20]} for {text[:60]!r}, not {want[:20]}"
            )
    return len(texts)


def _prove_template(export: Export, model: GenaiModel, tokenizer: PreTrainedTokenizerBase) -> int:
    if not tokenizer.chat_template:
        return 0
    compared = 0
    for chat in CONVERSATIONS:
        try:
            want = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            continue  # the template refuses such a chat, here as in any application
        got = model.render(chat)
        if got != want:
            raise _error(export, f"the chat template of onnxruntime-genai renders {got[:200]!r}, not {want[:200]!r}")
        compared += 1
    return compared


def _error(export: Export, cause: str, bounds: ParityLimits | None = None) -> ParityError:
    what = " ".join(part for part in (export.format, export.precision) if part)
    wider = f", or accept it by setting exports[{export.name}].parity" if bounds else ""
    better = {"int4": "choose precision: int8", "int8": "choose precision: fp32"}.get(export.precision or "", "")
    remedy = f"; {better or 'report this as a bug'}{wider}"
    return ParityError(
        f"export {export.name} ({what}) does not compute what the tuned model computes: {cause}. "
        f"It is not published{remedy}"
    )
