"""The operator as a process of its own that can be killed, with the permissions of the chart and nothing else.

Processes are forked from a server that has imported everything already, so that a restart costs a fraction of a second.
"""

import json
import multiprocessing
import os
import subprocess
import time
import urllib.error
import urllib.request
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import yaml

from apiserver.gateway import Gateway
from finetune_api.names import FIELD_MANAGER
from local_cluster import binaries, ports
from local_cluster.control_plane import ControlPlane

CHART = Path(__file__).parents[2] / "charts" / FIELD_MANAGER
PERMISSIONS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
START_SECONDS = 60.0

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["finetune_operator.shell.app", "finetune_operator.__main__"])


def permissions(namespace: str, *, whole_cluster: bool = False) -> list[dict[str, Any]]:
    """Account, roles and bindings of the chart, installed in a namespace and serving that one or all."""
    served = [] if whole_cluster else ["--set", f"namespaces={{{namespace}}}"]
    command = [str(binaries.path("helm")), "template", FIELD_MANAGER, str(CHART), "--namespace", namespace, *served]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [o for o in yaml.safe_load_all(rendered) if o and o["kind"] in PERMISSIONS]


def token(plane: ControlPlane, namespace: str) -> str:
    """A token of the operator's account."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{FIELD_MANAGER}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    code, text = plane.client().request("POST", path, request)
    assert code == 201, text
    return str(json.loads(text)["status"]["token"])


def _main(environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from finetune_operator.__main__ import main

    main()


class OperatorProcess:
    """Starts, kills and starts again one replica."""

    def __init__(self, gateway: Gateway, folder: Path, namespace: str, bearer: str, **settings: object) -> None:
        self._folder = folder
        self.log = folder / f"{settings.get('identity', 'operator')}.log"
        self._http_port = ports.free(1)[0]
        self._process: BaseProcess | None = None
        values = {
            "trainer_image": "trainer:test",
            "operator_namespace": namespace,
            "namespaces": namespace,
            "http_host": "127.0.0.1",
            "http_port": self._http_port,
            "identity": "operator",
            "progress_interval_seconds": 0.2,
            "retry_backoff_seconds": 1,
            "log_level": "DEBUG",
        } | settings
        self._environment = {f"FINETUNE_{name.upper()}": str(value) for name, value in values.items()}
        self._environment["KUBECONFIG"] = str(_kubeconfig(folder, self.log.stem, gateway.url, bearer))

    def start(self) -> "OperatorProcess":
        """Start, and return at once."""
        self._process = _processes.Process(target=_main, args=(self._environment, str(self.log)), daemon=True)
        self._process.start()
        return self

    def wait_ready(self) -> "OperatorProcess":
        """Wait until the operator has read the cluster."""
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            assert self.alive, f"the operator ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"the operator is not ready:\n{self.log.read_text()}"
            time.sleep(0.05)
        return self

    def is_ready(self) -> bool:
        return self.ask("/readyz")[0] == 200

    def ask(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the operator; 0 without an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """As a crash would: no last word. A process that is dead already stays so."""
        if self._process is not None:
            self._process.kill()

    def ended(self, within: float) -> int | None:
        """Exit code once the process has ended; None if it has not within some seconds."""
        assert self._process is not None
        self._process.join(within)
        return self._process.exitcode

    def terminate(self) -> int | None:
        """Ask it to stop as a kubelet does; returns the exit code, None when it takes more than ten seconds."""
        assert self._process is not None
        self._process.terminate()
        return self.ended(within=10.0)

    def restart_if_dead(self) -> bool:
        if self.alive:
            return False
        self.start()
        return True

    def cleanup(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(10)


def _kubeconfig(folder: Path, name: str, server: str, bearer: str) -> Path:
    path = folder / f"{name}.kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": bearer}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(document))
    return path
