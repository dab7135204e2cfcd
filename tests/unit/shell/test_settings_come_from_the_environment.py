"""Settings: FINETUNE_*, complete for the core, and refused with a sentence when they make no sense."""

import dataclasses

import pytest
from pydantic import ValidationError

from finetune_operator import __main__ as entry
from finetune_operator.core.configuration import Configuration
from finetune_operator.settings import OperatorSettings


@pytest.fixture(autouse=True)
def image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_IMAGE", "trainer:1")


def test_everything_that_decisions_depend_on_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "image_pull_policy": ("Always", "Always"),
        "image_pull_secrets": ("one, two", ("one", "two")),
        "operator_namespace": ("ops", "ops"),
        "metrics_namespaces": ("monitoring", ("monitoring",)),
        "network_policies": ("false", False),
        "prepare_memory": ("2Gi", "2Gi"),
        "grace_period_seconds": ("60", 60),
        "retry_backoff_seconds": ("1", 1),
        "retry_backoff_limit_seconds": ("2", 2),
        "stage_labels": ('{"team": "a"}', {"team": "a"}),
        "stage_env": ('{"HF_ENDPOINT": "https://hub"}', {"HF_ENDPOINT": "https://hub"}),
    }
    for name, (text, _) in values.items():
        monkeypatch.setenv(f"FINETUNE_{name.upper()}", text)
    want = {"trainer_image": "trainer:1"} | {name: value for name, (_, value) in values.items()}
    assert dataclasses.asdict(OperatorSettings().configuration()) == want
    assert set(want) == {field.name for field in dataclasses.fields(Configuration)}


def test_the_defaults_are_those_of_the_core() -> None:
    assert OperatorSettings().configuration() == Configuration(trainer_image="trainer:1")


def test_each_setting_is_documented() -> None:
    undocumented = [name for name, field in OperatorSettings.model_fields.items() if not field.description]
    assert undocumented == []


@pytest.mark.parametrize(("text", "want"), [("", ()), ("a", ("a",)), ("a,b", ("a", "b")), (" a , ,b ", ("a", "b"))])
def test_namespaces_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, text: str, want: tuple[str, ...]) -> None:
    monkeypatch.setenv("FINETUNE_NAMESPACES", text)
    assert OperatorSettings().namespaces == want


@pytest.mark.parametrize(
    ("name", "text", "want_message"),
    [
        ("LEASE_DURATION_SECONDS", "5", "two replicas could write at the same time"),
        ("LEASE_RETRY_SECONDS", "12", "two replicas could write at the same time"),
        ("WORKERS", "0", "FINETUNE_WORKERS"),
        ("RESYNC_SECONDS", "0", "FINETUNE_RESYNC_SECONDS"),
        ("PROGRESS_ACCESS", "magic", "FINETUNE_PROGRESS_ACCESS"),
        ("TRAINER_IMAGE", "", "FINETUNE_TRAINER_IMAGE"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str, want_message: str
) -> None:
    monkeypatch.setenv(f"FINETUNE_{name}", text)
    with pytest.raises(ValidationError):
        OperatorSettings()
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 2
    assert want_message in capsys.readouterr().err
