"""Greedy answers of a model to held-out prompts, and where they stop. Must not judge them.

Greedy and with nothing of the model's own generation settings (temperature, penalties), so that two models are compared
on their weights and a run can be repeated.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.evaluating.losses import OnRows
from finetune_trainer.evaluating.rows import EvalRow, batches
from finetune_trainer.evaluating.text_metrics import Answer

MARGIN = 16
"""Tokens beyond the longest reference: enough to see that an answer went on, so exact-match cannot change."""


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[EvalRow]) -> list[int]:
    """Tokens that end an answer: the ends of sequence of model and tokenizer, and the end of turn that the rows teach.

    The last is not listed anywhere for some models (Phi's <|end|>), but every supervised answer ends with it.
    """
    own = getattr(model.generation_config, "eos_token_id", None)
    found = {*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id}
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    for row in rows:
        found |= _ending(row, special, tokenizer)
    return sorted(int(token) for token in found if token is not None)


def _ending(row: EvalRow, special: set[int], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens after the last text of the answer; only white space may stand between them."""
    found: set[int] = set()
    for place in reversed(row.supervised):
        token = row.input_ids[place]
        if token in special:
            found.add(token)
        elif tokenizer.decode([token]).strip():
            break
    return found


def answer_limit(rows: Sequence[EvalRow], tokenizer: PreTrainedTokenizerBase, longest: int) -> int:
    """New tokens worth generating, the same for every batch: `longest`, or less when every reference is shorter."""
    references = tokenizer([row.reference for row in rows], add_special_tokens=False)["input_ids"]
    return min(longest, max(len(ids) for ids in references) + MARGIN)


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[EvalRow],
    *,
    limit: int,
    stops: Sequence[int],
    on_rows: OnRows = lambda _: None,
) -> list[Answer]:
    """Answers to the prompts of `rows`, in their order, of at most `limit` tokens each.

    Prompts of similar length share a batch, padded on the left. `on_rows` hears how many more rows are done.
    """
    answers: list[Answer] = [Answer("", finished=False)] * len(rows)
    for batch in batches([len(row.prompt_ids) + limit for row in rows]):
        prompts = [rows[i].prompt_ids for i in batch]
        for i, ids in zip(batch, greedy_ids(model, prompts, limit=limit, stops=stops), strict=True):
            finished = bool(ids) and ids[-1] in stops
            answers[i] = Answer(tokenizer.decode(ids, skip_special_tokens=True), finished=finished)
        on_rows(len(batch))
    return answers


def greedy_ids(
    model: PreTrainedModel, prompts: Sequence[list[int]], *, limit: int, stops: Sequence[int]
) -> list[list[int]]:
    """New token ids of each prompt, up to and including the first of `stops`, at most `limit`."""
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.tensor([[stops[0]] * (longest - len(p)) + p for p in prompts], device=model.device)
    attention = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=[*stops], pad_token_id=stops[0]
    )
    with _no_own_settings(model):
        output = model.generate(input_ids=input_ids, attention_mask=attention, generation_config=settings)
    return [_until_stop(row, stops) for row in output[:, longest:].tolist()]


@contextmanager
def _no_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """generate() takes what its settings leave open from the model's own, such as a penalty on repetition."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in stops:
            return ids[: place + 1]
    return ids
