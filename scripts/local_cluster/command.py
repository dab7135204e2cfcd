"""Calls other programs: quiet when they work, whole output in the error when they do not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_cluster.errors import CommandFailedError, MissingToolError, tail


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> str:
    """Runs a program to its end and returns what it wrote to standard output."""
    words = [str(word) for word in command]
    finished = subprocess.run(
        words,
        env={**os.environ, **(environment or {})},
        cwd=directory,
        input=stdin,
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    if finished.returncode != 0:
        raise CommandFailedError(words, finished.returncode, finished.stderr + finished.stdout)
    return finished.stdout


def stream(command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None) -> None:
    """Runs a program whose own progress is worth seeing: its output goes to standard error as it comes."""
    words = [str(word) for word in command]
    finished = subprocess.run(words, env={**os.environ, **(environment or {})}, stdout=2, check=False)
    if finished.returncode != 0:
        raise CommandFailedError(words, finished.returncode, "(its output is above)")


def logged(command: Sequence[str | Path], log: Path) -> None:
    """Runs a program with much to say: its output goes to `log`, of which an error shows the end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    with log.open("w") as output:
        finished = subprocess.run(words, stdout=output, stderr=subprocess.STDOUT, check=False)
    if finished.returncode != 0:
        end = f"the end of its log, {log}:\n{tail(log)}"
        raise CommandFailedError(words, finished.returncode, end)


def succeeds(command: Sequence[str | Path], timeout: float = 20) -> bool:
    """Whether a program exists and ends well."""
    try:
        run(command, timeout=timeout)
    except (CommandFailedError, OSError, subprocess.TimeoutExpired):
        return False
    return True


def require(tool: str, way_out: str) -> Path:
    """The path of a program that has to be on this machine."""
    # sbin is not on every user's PATH, yet holds ip, nft and debootstrap.
    found = shutil.which(tool, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise MissingToolError(f"{tool} was not found on this machine. {way_out}")
    return Path(found)
