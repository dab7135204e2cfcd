"""Writes every generated file of the repository, or with --check says which ones are stale."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from generation import api, chart, crd, reference, requirements

ROOT = Path(__file__).resolve().parent.parent


@cache
def texts() -> dict[str, str]:
    """Path below the repository root -> what the file must say."""
    return {
        "crds/slmops.dev_finetunejobs.yaml": crd.manifest(),
        "charts/finetune-operator/templates/crd.yaml": crd.chart_template(),
        "charts/finetune-operator/README.md": chart.readme(),
        "charts/finetune-operator/values.schema.json": chart.schema(),
        "charts/finetune-operator/values.yaml": chart.values(),
        "docs/reference/api.md": api.reference(),
        "docs/reference/exit-codes.md": reference.exit_codes(),
        "docs/reference/reasons.md": reference.reasons(),
        "requirements/build.txt": requirements.of_build(ROOT / "pyproject.toml"),
        "requirements/operator.txt": requirements.of_extra(ROOT / "pyproject.toml", "operator"),
        "requirements/trainer.txt": requirements.of_extra(ROOT / "pyproject.toml", "trainer"),
    }


def write(root: Path) -> list[str]:
    """Writes what is stale below `root`; returns the paths written."""
    stale = {path: text for path, text in texts().items() if _present(root / path) != text}
    for path, text in stale.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return [*stale]


def differences(root: Path) -> list[str]:
    """A unified diff of each stale file below `root`, from what it says to what it must say."""
    return [diff for path, text in texts().items() if (diff := _difference(path, _present(root / path), text))]


def _present(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _difference(path: str, present: str, text: str) -> str:
    lines = difflib.unified_diff(present.splitlines(True), text.splitlines(True), path, f"{path} (generated)")
    return "".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all files are as they must be in the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; print what differs and fail")
    if not parser.parse_args(arguments).check:
        print("\n".join(write(ROOT)) or "nothing was stale")
        return 0
    stale = differences(ROOT)
    if stale:
        print("".join(stale))
        print("these files are stale; run `python scripts/generate.py`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
