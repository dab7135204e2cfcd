"""Ragged rows out of Reuters R8: the beginning of a story is the prompt, the rest of it the completion."""

import json
import random
from pathlib import Path

from demo.assets import stories

PROMPT_WORDS = 12
MOST_WORDS = 300
"""Keeps all rows below the 1,024 tokens at which TRL cuts."""
SEED = 42


def write_stories(folder: Path, counts: dict[str, int]) -> None:
    """Write folder/<split>.jsonl with so many stories of a split of R8."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        told = [text.split()[:MOST_WORDS] for _, text in stories(split)]
        chosen = random.Random(SEED).sample([words for words in told if len(words) > 2 * PROMPT_WORDS], count)  # noqa: S311
        rows = [_row(words) for words in chosen]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(words: list[str]) -> dict[str, str]:
    return {"prompt": " ".join(words[:PROMPT_WORDS]), "completion": f" {' '.join(words[PROMPT_WORDS:])}"}
