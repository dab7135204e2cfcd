"""A real MLflow server on loopback, in an environment of its own: it wants an older pyarrow than the trainer."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_cluster import locations, ports
from local_cluster.lock import exclusive
from server_process import server_process

LOCK = Path(__file__).parents[1] / "requirements" / "mlflow-server.txt"
START_SECONDS = 120.0


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Address of a server that keeps its runs in `folder`; it ends with the block."""
    (port,) = ports.free(1)
    store = f"sqlite:///{folder}/runs.db"
    command = [
        str(_environment() / "bin" / "python"), "-m", "mlflow", "server", "--workers", "1",
        "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store,
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with server_process(command, port, folder, seconds=START_SECONDS, MLFLOW_DISABLE_TELEMETRY="true") as address:
        yield address


def _environment() -> Path:
    """The server's virtual environment, made once per machine for each version of its lock."""
    version = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    root = locations.from_environment().cache / "mlflow-server"
    target = root / version
    with exclusive(root / "in-use.lock"):
        if not (target / "complete").exists():
            shutil.rmtree(target, ignore_errors=True)
            uv = str(Path(sys.executable).parent / "uv")
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(target)], check=True)
            install = [
                uv,
                "pip",
                "install",
                "--quiet",
                "--compile-bytecode",
                "--python",
                str(target / "bin" / "python"),
            ]
            subprocess.run([*install, "--require-hashes", "-r", str(LOCK)], check=True)
            (target / "complete").touch()
    return target
