"""A TrainingJob on preferences as prepare leaves them: pairs for dpo and orpo, single answers for kto."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_job import WORDS, TrainingJob

WANTED = WORDS
UNWANTED = ("no", "ask somebody else", "I will not say what it is today")


@dataclass
class PreferenceJob(TrainingJob):
    """`objective` is training.objective; everything else is as in TrainingJob."""

    objective: str = "dpo"

    def __post_init__(self) -> None:
        self.training = {"objective": self.objective, **self.training}
        training = {"objective": self.objective, **self.spec.get("training", {})}
        self.spec = {"task": "preference", **self.spec, "training": training}
        super().__post_init__()

    def _write_rows(self, path: Path, count: int, seed: int) -> None:
        from datasets import Dataset

        rows = preference_rows(self.workspace.model, count, seed, single=self.objective == "kto")
        if path == self.workspace.eval_rows:
            rows = [{**row, "prompt_ids": row["input_ids"][:3], "reference": "ignored"} for row in rows]
        Dataset.from_list(rows).save_to_disk(str(path))


def preference_rows(model: Path, count: int, seed: int, *, single: bool) -> list[dict[str, Any]]:
    """Prompts of different lengths with two answers of different lengths; of `single` ones every other is wanted.

    The other answer of a single one is that of the next row: it belongs to another prompt.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer(i: int, kind: tuple[str, ...]) -> list[int]:
        return [*ids(kind[(3 * i + seed) % len(kind)]), tokenizer.eos_token_id]

    rows = []
    for i in range(count):
        prompt = ids(" ".join(WORDS[: 1 + (i + seed) % 4]))
        kinds = (WANTED, UNWANTED) if not single or i % 2 == 0 else (UNWANTED, WANTED)
        (first, mask), (second, other_mask) = (
            (prompt + said, [0] * len(prompt) + [1] * len(said)) for said in (answer(i, kinds[0]), answer(i, kinds[1]))
        )
        row = {"input_ids": first, "completion_mask": mask, "other_ids": second, "other_mask": other_mask}
        rows.append(row | ({"desirable": i % 2 == 0} if single else {}))
    return rows
