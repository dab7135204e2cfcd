"""The bootstrap begins to install with and without a folder of PyTorch wheels; the rest of it made this venv."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
READ = ("pyproject.toml", "requirements/constraints.txt", "scripts/bootstrap")
# Has every module that is asked for, and makes no venv.
PYTHON = '#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "asked: $*"\nexit 7\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in READ:
        target = tmp_path / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    stub = tmp_path / "python"
    stub.write_text(PYTHON)
    stub.chmod(0o755)
    return tmp_path / "clone"


@pytest.mark.parametrize("wheels", [None, "", "absent", "."])
def test_it_begins_to_install_whether_or_not_there_are_wheels(clone: Path, wheels: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_WHEELS"}
    if wheels is not None:
        environment["TORCH_WHEELS"] = wheels and str(clone / wheels)
    ended = subprocess.run(
        [clone / "scripts" / "bootstrap"],
        env=environment | {"PYTHON": str(clone.parent / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "installing the locked dependencies" in ended.stderr
    assert (ended.stdout.strip(), ended.returncode) == ("asked: -m venv .venv", 7)
