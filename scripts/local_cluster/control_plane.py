"""A control plane without nodes: etcd, kube-apiserver and, when wanted, kube-controller-manager and kube-scheduler.

For tests and benchmarks it runs on free loopback ports in a folder of its own, unprivileged, several at once; the
cluster on the host starts the same processes with other settings. Without a kubelet, whoever needs a pod's status
writes it.
"""

from __future__ import annotations

import atexit
import json
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from local_cluster import binaries, control_plane_flags, files, kubeconfig, ports
from local_cluster.api_client import ApiClient
from local_cluster.control_plane_flags import COMPONENTS, ControlPlaneSettings
from local_cluster.pki import control_plane_certificates
from local_cluster.process import Processes
from local_cluster.waiting import wait_until

START_SECONDS = 120.0  # of a machine on which everything else runs, too
_FLAGS = {
    "etcd": control_plane_flags.etcd,
    "kube-apiserver": control_plane_flags.kube_apiserver,
    "kube-controller-manager": control_plane_flags.kube_controller_manager,
    "kube-scheduler": control_plane_flags.kube_scheduler,
}
_DEFAULT_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"
_PORTS = ("etcd-peer", *COMPONENTS)


class ControlPlane:
    """Starts, ends and disturbs the components of one control plane. As a context manager it is up inside the block."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        controller_manager: bool = False,
        scheduler: bool = False,
        extra_api_server_flags: tuple[str, ...] = (),
        settings: ControlPlaneSettings | None = None,
    ) -> None:
        self._temporary = directory is None and settings is None
        if settings is None:
            folder = directory or Path(tempfile.mkdtemp(prefix="control-plane-"))
            settings = default_settings(folder, extra_api_server_flags)
        self.settings = settings
        self.processes = Processes(settings.directory)
        optional = {"kube-controller-manager": controller_manager, "kube-scheduler": scheduler}
        self.components = tuple(name for name in COMPONENTS if optional.get(name, True))

    @property
    def server(self) -> str:
        """The API server's address, https and with port."""
        return self.settings.server

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.settings.kubeconfig("admin")

    @property
    def audit_log(self) -> Path:
        """One JSON object per answered request."""
        return self.settings.audit_log

    def log(self, name: str) -> Path:
        """The log of one component."""
        return self.processes.log(name)

    def client(self) -> ApiClient:
        """A small client with the administrator's certificate."""
        return ApiClient.of_admin(self.server, self.settings.pki)

    def start(self, name: str | None = None) -> Self:
        """Starts everything that does not run, or one component, and waits until it is healthy."""
        if self._temporary:
            atexit.register(self.stop)
        self._prepare()
        for component in self.components if name is None else (name,):
            self._start(component)
            self._wait(component)
        return self

    def stop(self) -> None:
        """Ends every component; a folder that this object made goes, too."""
        for component in reversed(self.components):
            self.processes.stop([component], grace=2.0)
        if self._temporary:
            atexit.unregister(self.stop)
            shutil.rmtree(self.settings.directory, ignore_errors=True)

    def kill(self, name: str) -> None:
        """Ends one component as a crash would; `start(name)` brings it back."""
        self.processes.kill([name])

    def pause(self, name: str) -> None:
        """Freezes one component: connections stay open, nothing answers."""
        self.processes.send(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Lets a frozen component go on."""
        self.processes.send(name, signal.SIGCONT)

    def healthy(self, name: str) -> bool:
        """Whether one component answers its health check now."""
        checks = {
            "etcd": ("etcd-client", "etcd-ca", "/health"),
            "kube-apiserver": ("admin", "ca", "/readyz"),
        }
        client, authority, path = checks.get(name, ("admin", "", "/healthz"))
        return self._answers(name, client, authority, path)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        settings = self.settings
        self.processes.logs.mkdir(parents=True, exist_ok=True)
        settings.pki.create(control_plane_certificates(_api_hosts(settings)))
        files.write(settings.audit_policy, json.dumps(control_plane_flags.AUDIT_POLICY))
        for user in ("admin", "kube-controller-manager", "kube-scheduler"):
            kubeconfig.write(settings.kubeconfig(user), settings.server, settings.pki, user)

    def _start(self, name: str) -> None:
        self.processes.start(name, [binaries.path(name), *_FLAGS[name](self.settings)])

    def _wait(self, name: str) -> None:
        self.processes.wait_healthy(name, lambda: self.healthy(name), START_SECONDS)
        if name == "kube-controller-manager":  # no pod can be created before the account that it runs as
            client = self.client()
            wait_until(lambda: client.answers(_DEFAULT_ACCOUNT), START_SECONDS)

    def _answers(self, name: str, client: str, authority: str, path: str) -> bool:
        pki, port = self.settings.pki, self.settings.ports[name]
        address = self.settings.address if name == "kube-apiserver" else "127.0.0.1"
        # The controller manager and the scheduler sign their own serving certificate when they start.
        trusted = pki.certificate(authority) if authority else pki.directory / name / f"{name}.crt"
        if not trusted.exists():
            return False
        server = f"https://{address}:{port}"
        return ApiClient(server, trusted, pki.certificate(client), pki.key(client)).answers(path)


def default_settings(directory: Path, extra_api_server_flags: tuple[str, ...] = ()) -> ControlPlaneSettings:
    """On loopback, at ports that were free when the folder was first used."""
    known = ports.remembered(directory / "ports.json", _PORTS)
    return ControlPlaneSettings(directory, known, extra_api_server_flags=extra_api_server_flags)


def _api_hosts(settings: ControlPlaneSettings) -> list[str]:
    return sorted({"127.0.0.1", settings.address, control_plane_flags.KUBERNETES_SERVICE_ADDRESS})
