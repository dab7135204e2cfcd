"""Whether an image must be built again is told by what it is made of."""

import shutil
from pathlib import Path

import pytest

from local_cluster import image_sources

ROOT = Path(__file__).parents[3]
DOCKERFILES = [ROOT / folder / "Dockerfile" for folder in ("operator", "trainer-image")]
CONTEXT = ("LICENSE", "README.md", "pyproject.toml", "operator", "requirements", "trainer-image")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name in CONTEXT:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_the_same_sources_anywhere_make_the_same_image(dockerfile: Path, context: Path) -> None:
    assert image_sources.digest(dockerfile, context, {}) == image_sources.digest(dockerfile, ROOT, {})


@pytest.mark.parametrize(
    "changed", ["operator/finetune_api/names.py", "requirements/constraints.txt", "pyproject.toml", "README.md"]
)
@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_a_change_of_what_is_copied_makes_another_image(dockerfile: Path, context: Path, changed: str) -> None:
    before = image_sources.digest(dockerfile, context, {})
    with (context / changed).open("a") as file:
        file.write("\n")
    assert image_sources.digest(dockerfile, context, {}) != before


def test_what_is_not_copied_and_what_python_leaves_behind_make_no_other_image(context: Path) -> None:
    dockerfile = DOCKERFILES[0]
    before = image_sources.digest(dockerfile, context, {})
    (context / "notes").write_text("x")
    cache = context / "operator" / "finetune_api" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "names.cpython-399.pyc").write_text("x")
    assert image_sources.digest(dockerfile, context, {}) == before


def test_a_setting_of_the_build_makes_another_image() -> None:
    with_wheel = image_sources.digest(DOCKERFILES[0], ROOT, {"wheels": "torch-2.13.0+cpu.whl"})
    assert with_wheel != image_sources.digest(DOCKERFILES[0], ROOT, {"wheels": ""})
