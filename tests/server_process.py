"""A server that a test starts as a process: it answers before the test goes on, and ends with its block."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

LAST_LINES = 20


@contextmanager
def server_process(
    command: Sequence[str],
    port: int,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    health: str = "/health",
    seconds: float = 30,
    **variables: str,
) -> Iterator[str]:
    """Address of the server that `command` starts at `host`:`port`, once its path `health` answers with success.

    It runs in `folder`, which is its home and has its server.log, and in a session of its own, so that Ctrl-C ends the
    test first; of the environment it knows PATH and `variables`. Raises AssertionError with the end of the log when it
    ends early or does not answer for `seconds`.
    """
    log = folder / "server.log"
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, env=environment, start_new_session=True
        )
    address = f"http://{host}:{port}"
    try:
        deadline = time.monotonic() + seconds
        while not _answers(address + health):
            assert process.poll() is None, f"{command[0]} ended with exit code {process.returncode}:\n{_end(log)}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer after {seconds} s:\n{_end(log)}"
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):  # noqa: S310 - loopback
            return True
    except (OSError, HTTPException):
        return False


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
