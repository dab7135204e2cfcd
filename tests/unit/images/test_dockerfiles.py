"""Both images are made alike, from the lock, and without what a running pod does not need."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = {"operator": "operator", "trainer": "trainer-image"}


def _steps(extra: str) -> list[str]:
    """Instructions, continued lines joined, comments left out."""
    lines = [line for line in _text(extra).splitlines() if not line.startswith("#")]
    return [step for step in "\n".join(lines).replace("\\\n", " ").splitlines() if step]


def _text(extra: str) -> str:
    return (ROOT / FOLDERS[extra] / "Dockerfile").read_text()


def _last_stage(extra: str) -> list[str]:
    steps = _steps(extra)
    return steps[max(i for i, step in enumerate(steps) if step.startswith("FROM")) :]


@pytest.mark.parametrize("extra", FOLDERS)
def test_the_base_image_can_be_chosen_and_every_stage_starts_from_it(extra: str) -> None:
    assert "ARG BASE_IMAGE=python:3.11-slim-bookworm" in _steps(extra)
    sources = [step.split()[1] for step in _steps(extra) if step.startswith("FROM")]
    assert set(sources) == {"${BASE_IMAGE}", "uv"}


@pytest.mark.parametrize("extra", FOLDERS)
def test_dependencies_come_from_the_lock(extra: str) -> None:
    (install,) = [step for step in _steps(extra) if f"-r /requirements/{extra}.txt" in step]
    assert "-c /requirements/constraints.txt" in install
    assert "--mount=type=cache,target=/root/.cache/uv" in install


@pytest.mark.parametrize("extra", FOLDERS)
def test_our_wheel_comes_after_the_dependencies_and_is_copied_so_that_a_new_one_is_noticed(extra: str) -> None:
    steps = _last_stage(extra)
    dependencies = steps.index("COPY --from=dependencies /opt/venv /opt/venv")
    wheel = steps.index("COPY --from=wheel /dist /tmp/dist")
    (install,) = [i for i, step in enumerate(steps) if "/tmp/dist/*.whl" in step]
    assert dependencies < wheel < install
    assert "--no-deps" in steps[install]


@pytest.mark.parametrize("extra", FOLDERS)
def test_the_process_is_nobody_and_starts_our_program(extra: str) -> None:
    steps = _last_stage(extra)
    assert "USER 65532:65532" in steps
    assert f'ENTRYPOINT ["finetune-{extra}"]' in steps
    assert steps.index("USER 65532:65532") > max(i for i, step in enumerate(steps) if step.startswith("RUN"))


@pytest.mark.parametrize("extra", FOLDERS)
def test_the_environment_suits_a_read_only_root(extra: str) -> None:
    (environment,) = [step for step in _last_stage(extra) if step.startswith("ENV")]
    for variable in ("PYTHONSAFEPATH=1", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp"):
        assert variable in environment


def test_the_allocator_that_is_preloaded_is_installed_before() -> None:
    steps = _last_stage("trainer")
    (installed,) = [i for i, step in enumerate(steps) if "libtcmalloc-minimal4" in step]
    (preloaded,) = [i for i, step in enumerate(steps) if "LD_PRELOAD=libtcmalloc_minimal.so.4" in step]
    assert installed < preloaded


@pytest.mark.parametrize("extra", FOLDERS)
@pytest.mark.parametrize("label", ["title", "description", "licenses", "version", "revision"])
def test_the_image_says_what_it_is(extra: str, label: str) -> None:
    assert f"org.opencontainers.image.{label}=" in _steps(extra)[-1]


def test_one_version_of_uv_is_used_everywhere() -> None:
    versions = {re.search(r"uv==(\S+)", _text(extra)).group(1) for extra in FOLDERS}  # type: ignore[union-attr]
    bootstrap = re.search(r"^UV_VERSION=(\S+)", (ROOT / "scripts/bootstrap").read_text(), re.MULTILINE)
    assert bootstrap is not None
    assert versions == {bootstrap.group(1)}


def test_the_lock_has_hashes_for_everything_but_torch() -> None:
    lock = (ROOT / "requirements/constraints.txt").read_text()
    pins = re.findall(r"^([\w.-]+)==.*?(\\?)$", lock, re.MULTILINE)
    assert len(pins) > 100
    assert [name for name, hashes in pins if not hashes] == ["torch"]


def test_no_pin_names_a_build_that_others_do_not_have() -> None:
    assert "+cpu" not in (ROOT / "requirements/constraints.txt").read_text()


def test_the_build_context_holds_sources_only() -> None:
    kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert kept == [
        "!LICENSE",
        "!README.md",
        "!pyproject.toml",
        "!operator/finetune_*",
        "!requirements",
        "!trainer-image/finetune_*",
    ]
