"""A server that a test starts as a process: waits until it answers, and says what it wrote when it does not."""

import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path


def wait_healthy(
    process: "subprocess.Popen[bytes]", port: int, log: Path, seconds: float, path: str = "/health"
) -> None:
    """Wait until `path` of the server at `port` answers with success."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise AssertionError(f"the server at port {port} does not answer: {log.read_text()}")
