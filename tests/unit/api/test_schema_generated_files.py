"""Generated files are as the contract says, and a stale one is found."""

from pathlib import Path

import pytest

import generate
from finetune_api.conditions import ConditionType, Reason
from finetune_api.exit_codes import ExitCode


def test_no_generated_file_is_stale() -> None:
    assert "".join(generate.differences(generate.ROOT)) == ""


def test_writing_leaves_nothing_stale_and_writes_only_what_is(tmp_path: Path) -> None:
    assert generate.write(tmp_path) == [*generate.texts()]
    assert generate.differences(tmp_path) == []
    (tmp_path / "docs/reference/api.md").write_text("edited by hand\n")
    assert generate.write(tmp_path) == ["docs/reference/api.md"]


def test_a_stale_file_is_shown_as_a_difference(tmp_path: Path) -> None:
    generate.write(tmp_path)
    crd = tmp_path / "crds/slmops.dev_finetunejobs.yaml"
    crd.write_text(crd.read_text().replace("- ftj", "- ft"))
    (difference,) = generate.differences(tmp_path)
    assert "crds/slmops.dev_finetunejobs.yaml (generated)" in difference
    assert "-    - ft\n+    - ftj\n" in difference


def test_check_fails_and_writes_nothing_when_a_file_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert generate.main(["--check"]) == 1
    assert [*tmp_path.iterdir()] == []
    assert "run `python scripts/generate.py`" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


@pytest.mark.parametrize("word", [*ConditionType, *Reason])
def test_every_condition_type_and_reason_has_a_line(word: str) -> None:
    assert f"| `{word}` |" in generate.texts()["docs/reference/reasons.md"]


@pytest.mark.parametrize("exit_code", ExitCode, ids=lambda each: each.name)
def test_every_exit_code_has_a_line(exit_code: ExitCode) -> None:
    assert f"| {exit_code.value} | {exit_code.name} |" in generate.texts()["docs/reference/exit-codes.md"]


def test_the_chart_has_the_same_definition_but_for_its_metadata() -> None:
    texts = generate.texts()
    chart, _, rest = texts["charts/finetune-operator/templates/crd.yaml"].partition("spec:\n")
    assert "{{- if .Values.crds.enabled }}" in chart
    assert rest == texts["crds/slmops.dev_finetunejobs.yaml"].partition("spec:\n")[2] + "{{- end }}\n"
