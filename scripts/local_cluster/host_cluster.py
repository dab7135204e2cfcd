"""The cluster on this host: which parts run, in which order they come and go.

Every step of `up` leaves alone what is already right, and `down` takes away whatever part it finds: both work after a
crash at any moment.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from local_cluster import (
    addons,
    binaries,
    cgroups,
    containerd,
    files,
    host_teardown,
    image_archive,
    images,
    kernel_settings,
    kubeconfig,
    network,
    node,
    packages,
    services,
    shared_folders,
)
from local_cluster.cluster import Status
from local_cluster.command import run
from local_cluster.control_plane_flags import COMPONENTS as CONTROL_PLANE
from local_cluster.errors import ComponentFailedError, LocalClusterError
from local_cluster.host_health import HostHealth
from local_cluster.host_layout import HostLayout
from local_cluster.image_reference import ImageRef
from local_cluster.pki import node_certificates
from local_cluster.process import Processes, boot_id
from local_cluster.progress import step
from local_cluster.releases import architecture
from local_cluster.waiting import wait_until

PROGRAMS = (*CONTROL_PLANE, "kubelet", "kube-proxy", "coredns", "storage-provisioner", "registry", "pause", "kubectl")
READY_SECONDS = 120.0
_NODE_CLIENTS = ("kubelet", "kube-proxy", "coredns", "storage-provisioner")


class HostCluster:
    """One node, started from upstream components."""

    def __init__(self, layout: HostLayout) -> None:
        self.layout = layout
        self.processes = Processes(layout.directory)
        self.health = HostHealth(layout)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.layout.kubeconfig

    def up(self) -> None:
        """Prepares the host, then starts what does not run."""
        packages.ensure(packages.NODE)
        for name in PROGRAMS:
            binaries.path(name)
        with step("preparing network and control groups"):
            self._prepare_host()
        with step("starting containerd and the registry"):
            self._start_runtime()
        with step("starting the control plane"):
            self.health.control_plane.start()
        with step("starting the node and its services"):
            self._start_node()
        with step("waiting for the node to be ready"):
            self._wait_ready()

    def down(self) -> None:
        """Takes everything away, whatever is left of it."""
        with step("taking the cluster away"):
            host_teardown.tear_down(self.layout)

    def load(self, image: ImageRef) -> str:
        """Pushes to the registry on the bridge: only layers that it does not have travel."""
        if not self.processes.running("registry"):
            raise LocalClusterError(
                "the local cluster's registry does not run; start the cluster first: local_cluster up"
            )
        return images.push(image, self.layout.registry, plain_http=True)

    def status(self) -> Status:
        """Asks every component, and the API server for the node."""
        return self.health.status()

    def _prepare_host(self) -> None:
        layout = self.layout
        self._refuse_foreign_kube_proxy()
        layout.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        host_teardown.forget_previous_boot(layout)
        layout.boot_record.write_text(boot_id())
        kernel_settings.remember(layout.kernel_record)
        shared_folders.remember(layout.folders_record)
        network.create(layout.network)
        kernel_settings.forward_packets()
        cgroups.create()

    def _refuse_foreign_kube_proxy(self) -> None:
        ours = self.layout.directory.exists()
        if not ours and any(network.table_exists(*table) for table in network.KUBE_PROXY_TABLES):
            raise LocalClusterError(
                "another kube-proxy's nftables tables are on this host (nft list tables), and ours would replace them. "
                "Use that cluster instead: KUBE_CONTEXT=<its context>."
            )

    def _start_runtime(self) -> None:
        runtime = self.layout.containerd
        snapshotter = containerd.usable_snapshotter(runtime.directory)
        containerd.write_configuration(replace(runtime, snapshotter=snapshotter), self.layout.network)
        rendered = services.render_registry_config(self.layout.network, self.layout.directory / "registry")
        files.write(self.layout.registry_config, rendered)
        self.processes.start("containerd", runtime.command())
        self._start("registry", services.registry_command(self.layout.registry_config))
        self._wait("containerd", "registry")
        self._import_pause_image()

    def _import_pause_image(self) -> None:
        runtime = self.layout.containerd
        name = f"{runtime.registry}/{containerd.PAUSE_IMAGE}"
        archive = runtime.directory / "pause.tar"
        image_archive.write(archive, binaries.path("pause"), name, architecture())
        run(runtime.ctr("images", "import", archive))

    def _start_node(self) -> None:
        layout, settings = self.layout, self._node_settings()
        settings.pki.create(node_certificates(node.NAME, layout.network.gateway))
        for user in _NODE_CLIENTS:
            kubeconfig.write(settings.kubeconfig(user), self.health.settings.server, settings.pki, user)
        node.write_configuration(settings)
        for manifest in addons.manifests(layout.network):
            self.health.control_plane.client().apply(manifest)
        files.write(
            layout.corefile, services.render_corefile(layout.network, settings.ports, settings.kubeconfig("coredns"))
        )
        self._start("coredns", services.coredns_command(layout.corefile))
        volumes = services.provisioner_command(settings.kubeconfig("storage-provisioner"), layout.volumes)
        self._start("storage-provisioner", volumes)
        self._start("kubelet", node.kubelet_command(settings))
        self._start("kube-proxy", node.kube_proxy_command(settings))

    def _wait_ready(self) -> None:
        self._wait("coredns", "storage-provisioner", "kubelet", "kube-proxy")
        if not wait_until(lambda: self.health.nodes().get(node.NAME, False), READY_SECONDS):
            raise ComponentFailedError("kubelet", "runs, but its node is not Ready", self.processes.log("kubelet"))

    def _start(self, name: str, arguments: list[str]) -> None:
        self.processes.start(name, [binaries.path(name), *arguments], services.ENVIRONMENT)

    def _wait(self, *names: str) -> None:
        for name in names:
            self.processes.wait_healthy(name, self.health.checks[name], READY_SECONDS)

    def _node_settings(self) -> node.NodeSettings:
        layout = self.layout
        return node.NodeSettings(
            layout.directory,
            layout.network,
            self.health.settings.pki,
            self.layout.ports,
            layout.containerd.socket,
            cgroups.version_1(cgroups.mounted_here()),
        )
