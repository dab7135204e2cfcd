"""Python accepts and refuses the documents that the API server accepts and refuses (tests/apiserver)."""

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from finetune_api.rules import ApiModel
from finetune_api.v1alpha1 import FineTuneJob
from job_documents import ACCEPTED, REFUSED, Case, Document, complete


def _judged(document: dict[str, object]) -> FineTuneJob:
    return FineTuneJob.model_validate(document)


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_python_accepts(case: Case) -> None:
    assert _judged(case.document()).spec


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_python_refuses(case: Case) -> None:
    with pytest.raises(ValidationError):
        _judged(case.document())


@pytest.mark.parametrize("document", complete().values(), ids=complete())
def test_python_accepts_a_job_that_sets_everything(document: Document) -> None:
    assert _judged(document).spec.training.extra == document["spec"]["training"]["extra"]


def _models(base: type[ApiModel]) -> Iterator[type[ApiModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def test_every_rule_is_broken_by_a_refused_document() -> None:
    rules = [rule for model in _models(ApiModel) for rule in model.rules()]
    unbroken = [rule.message for rule in rules if not any(case.want_message in rule.message for case in REFUSED)]
    assert rules
    assert unbroken == []
