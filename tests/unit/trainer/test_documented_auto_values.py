"""docs/methods.md tells what every `auto` of the spec chooses, with the numbers that are in force."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.holdout import STRATIFIED_UP_TO
from finetune_trainer.planning import resolve, schedule

PAGE = Path(__file__).parents[3] / "docs" / "methods.md"


def documented() -> dict[str, str]:
    """Field -> what the page says."""
    section = PAGE.read_text().partition("## What `auto` chooses")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", section, re.MULTILINE))


def fields_with_auto(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        is_list = "items" in field
        here = f"{path}{name}{'[]' if is_list else ''}"
        if field.get("default") == "auto":
            yield f"{path}{name}"
        for reference in re.findall(r"'#/\$defs/(\w+)'", str(field)):
            yield from fields_with_auto(definitions[reference], definitions, f"{here}.")


def test_every_field_that_may_be_auto_is_told_and_no_other() -> None:
    schema = FineTuneJobSpec.model_json_schema()
    assert set(documented()) == {*fields_with_auto(schema, schema["$defs"])}


@pytest.mark.parametrize(
    ("field", "numbers"),
    [
        ("dataset.maxLength", [resolve.BLOCK, resolve.STEPS_PER_EPOCH]),
        ("training.batchSize", [resolve.LARGEST_BATCH, resolve.STEPS_PER_EPOCH]),
        ("training.microBatchSize", [*resolve.MICRO_TOKENS.values(), *resolve.LARGEST_MICRO_BATCH.values()]),
        ("training.gradientCheckpointing", [resolve.CHECKPOINTING_FROM // 10**9]),
        ("training.evalEvery", [schedule.EVENTS_PER_RUN, round(100 * schedule.EVALUATION_SHARE)]),
        ("training.checkpointEvery", [schedule.EVENTS_PER_RUN]),
        ("evaluation.metrics", [STRATIFIED_UP_TO]),
    ],
)
def test_the_numbers_are_those_in_force(field: str, numbers: list[int]) -> None:
    told = re.findall(r"[\d,]*\d", documented()[field])
    assert [number for number in numbers if f"{number:,}" not in told] == []
