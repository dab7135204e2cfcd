"""What can go wrong, as one exception tree. Every message names what failed, the log if any, and the way out."""

from __future__ import annotations

from pathlib import Path


class LocalClusterError(Exception):
    """Something the user has to know; printed without a traceback."""


class MissingToolError(LocalClusterError):
    """A program that this machine lacks, with the way to get it."""


class BinaryUnavailableError(LocalClusterError):
    """A component could neither be downloaded nor built."""


class ComponentFailedError(LocalClusterError):
    """A component ended, or did not become healthy in time."""

    def __init__(self, name: str, what: str, log: Path) -> None:
        super().__init__(f"{name} {what}. The end of its log, {log}:\n{tail(log)}")


class CommandFailedError(LocalClusterError):
    """A program that this tool called ended with an error."""

    def __init__(self, command: list[str], exit_code: int, output: str) -> None:
        self.output = output
        super().__init__(f"`{' '.join(command)}` ended with exit code {exit_code}:\n{output.strip()}")


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented; empty when there is none yet."""
    if not log.exists():
        return "  (no log was written)"
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
