import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_trainer.cli import main

JOB = """
apiVersion: slmops.dev/v1alpha1
kind: FineTuneJob
metadata: {name: bot}
spec:
  model: {source: "pvc://models/tiny"}
  dataset: {train: {source: "pvc://data/train.jsonl"}}
"""


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from finetune_trainer.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'trl', 'pydantic_settings', 'structlog'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, heavy = answer.stdout.splitlines()
    assert version.startswith("finetune-trainer 0.")
    assert heavy == "[]"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["train", "--claim", "nothing"], ["run", "--stage", "x"]])
def test_wrong_arguments_end_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: finetune-trainer" in capsys.readouterr().err


def run_job(tmp_path: Path, text: str, *claims: str) -> int:
    (tmp_path / "job.yaml").write_text(text)
    named = [part for claim in claims for part in ("--claim", claim)]
    return main(["run", "--job", str(tmp_path / "job.yaml"), "--output", str(tmp_path / "out"), *named])


def test_a_claim_without_a_folder_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(tmp_path, JOB) == ExitCode.INVALID_SPEC
    assert (
        "pvc://models/tiny names the claim 'models': give its folder with --claim models=PATH"
        in capsys.readouterr().out
    )


def test_a_job_of_a_cluster_cannot_be_looked_up_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(tmp_path, JOB.replace("pvc://models/tiny", "job://first")) == ExitCode.INVALID_SPEC
    assert "job://first names a job of a cluster, and here is none" in capsys.readouterr().out


def test_a_claim_that_is_no_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(tmp_path, JOB, "models=/no/such/folder", f"data={tmp_path}") == ExitCode.SOURCE_NOT_FOUND
    assert "--claim models=/no/such/folder: there is no such folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (JOB.replace("dataset", "datasets"), "spec.datasets: Extra inputs are not permitted"),
        (JOB.replace("model:", "models:"), "spec.model: Field required"),
        (JOB.replace("{train:", "{eval:"), "dataset.train is missing: name the rows to train on"),
        (JOB + "  training: {epochs: 1, maxSteps: 2}\n", "training.epochs and training.maxSteps exclude each other"),
        (JOB + "  dryRun: [\n", "is not YAML"),
        ("just text", "is not a FineTuneJob"),
    ],
)
def test_a_manifest_that_cannot_be_used_names_the_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, want: str
) -> None:
    assert run_job(tmp_path, text) == ExitCode.INVALID_SPEC
    assert want in capsys.readouterr().out


def test_a_missing_manifest_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["run", "--job", str(tmp_path / "no.yaml"), "--output", str(tmp_path)])
    assert code == ExitCode.SOURCE_NOT_FOUND
    assert "no.yaml does not exist" in capsys.readouterr().out
