"""Kubeflow Trainer and the JobSet controller below it as they are shipped: manifests come out of their Go modules.

Changed are only addresses, certificates (ours; their webhooks are called by url on this machine) and leader election
(off). `lifted` also takes away the limits on their own requests.
"""

from __future__ import annotations

import base64
import os
import shutil

import yaml

from control import accounts, programs
from control.system import Description, Object, answers, pids_of
from local_cluster import ports
from local_cluster.control_plane import ControlPlane
from local_cluster.pki import Certificate

READY_SECONDS = 120.0
NO_LIMIT = {"qps": 5000, "burst": 10000}
_RUNTIME = "torch-distributed"
_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
_RBAC = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
_CERTIFICATE = Certificate("webhooks", "webhooks", hosts=("localhost", "127.0.0.1"))


class _Controller:
    """One of the two processes."""

    def __init__(self, name: str, namespace: str, account: str, folders: tuple[str, ...], config: str) -> None:
        self.name = name
        self.namespace = namespace
        self.account = account
        self._folders = folders
        self._config = config
        self._webhook_port, self._health_port, self._metrics_port = ports.free(3)
        self._objects: list[Object] = []

    def objects(self, plane: ControlPlane) -> list[Object]:
        """All objects that it is shipped with, in its namespace."""
        if not self._objects:
            folder = plane.settings.directory / f"{self.name}-manifests"
            folder.mkdir(exist_ok=True)
            source = programs.sources(self.name)
            resources = [os.path.relpath((source / part).resolve(), folder.resolve()) for part in self._folders]
            overlay = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
            text = yaml.safe_dump({**overlay, "namespace": self.namespace, "resources": resources})
            (folder / "kustomization.yaml").write_text(text)
            self._objects = accounts.kustomized(folder)
        return self._objects

    def define(self, plane: ControlPlane) -> None:
        """Its CustomResourceDefinitions."""
        accounts.apply(plane, accounts.of_kinds(self.objects(plane), "CustomResourceDefinition"))

    def start(self, plane: ControlPlane, changes: Object) -> None:
        """Account, roles, process, and then the webhooks that lead to it."""
        objects = self.objects(plane)
        accounts.make_namespace(plane, self.namespace)
        accounts.apply(plane, accounts.of_kinds(objects, *_RBAC))
        config = plane.settings.directory / f"{self.name}.yaml"
        config.write_text(yaml.safe_dump(self._configuration(changes)))
        plane.processes.start(
            self.name, [programs.path(self.name), f"--config={config}", "--zap-log-level=2"], self._environment(plane)
        )
        plane.processes.wait_healthy(self.name, self._ready, READY_SECONDS)
        accounts.apply(plane, (local(o, plane, self._webhook_port) for o in accounts.of_kinds(objects, *_WEBHOOKS)))

    def stop(self, plane: ControlPlane) -> None:
        """The process and its webhooks."""
        plane.processes.stop([self.name], grace=10.0)
        client = plane.client()
        for obj in accounts.of_kinds(self.objects(plane), *_WEBHOOKS):
            client.request("DELETE", f"/apis/{obj['apiVersion']}/{obj['kind'].lower()}s/{obj['metadata']['name']}")

    def _configuration(self, changes: Object) -> Object:
        shipped: Object = yaml.safe_load((programs.sources(self.name) / self._config).read_text())
        here = {
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health_port}"},
            "metrics": {"bindAddress": f"127.0.0.1:{self._metrics_port}"},
            "webhook": {"port": self._webhook_port, "host": "127.0.0.1"},
            "leaderElection": {"leaderElect": False},
        }
        return merged(merged(shipped, here), changes)

    def _environment(self, plane: ControlPlane) -> dict[str, str]:
        """controller-runtime looks for certificates below the folder for temporary files."""
        folder = plane.settings.directory / f"{self.name}-tmp"
        certificates = folder / "k8s-webhook-server" / "serving-certs"
        certificates.mkdir(parents=True, exist_ok=True)
        pki = plane.settings.pki
        pki.create((_CERTIFICATE,))
        shutil.copy(pki.certificate(_CERTIFICATE.name), certificates / "tls.crt")
        shutil.copy(pki.key(_CERTIFICATE.name), certificates / "tls.key")
        return {"TMPDIR": str(folder), "KUBECONFIG": str(accounts.kubeconfig(plane, self.namespace, self.account))}

    def _ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self._health_port}/readyz")


class Trainer:
    """Kubeflow Trainer with the JobSet controller."""

    def __init__(self, *, lifted: bool = False) -> None:
        self._limits: Object = {"clientConnection": NO_LIMIT} if lifted else {}
        self._jobset = _Controller(
            "jobset",
            "jobset-system",
            "jobset-controller-manager",
            ("config/default",),
            "config/components/manager/controller_manager_config.yaml",
        )
        self._trainer = _Controller(
            "trainer",
            "kubeflow-system",
            "kubeflow-trainer-controller-manager",
            ("manifests/base/crds", "manifests/base/rbac", "manifests/base/webhook"),
            "manifests/base/manager/controller_manager_config.yaml",
        )
        self._controllers = (self._jobset, self._trainer)
        self.description = Description(
            name="trainer-lifted" if lifted else "trainer",
            title=f"Trainer {programs.version('trainer')} + JobSet {programs.version('jobset')}, "
            + ("limits lifted" if lifted else "as shipped"),
            api_version="trainer.kubeflow.org/v1alpha1",
            plural="trainjobs",
            job_label="jobset.sigs.k8s.io/jobset-name",
            ended="Complete",
            users=tuple(accounts.user_name(c.namespace, c.account) for c in self._controllers),
        )

    def define(self, plane: ControlPlane) -> None:
        """The CRDs of both."""
        for controller in self._controllers:
            controller.define(plane)

    def start(self, plane: ControlPlane) -> None:
        """JobSet first, then Trainer, then the runtime that TrainJobs refer to."""
        self._jobset.start(plane, merged({"internalCertManagement": {"enable": False}}, self._limits))
        self._trainer.start(plane, merged({"certManagement": {"enable": False}}, self._limits))
        runtime = programs.sources("trainer") / "manifests/base/runtimes/torch_distributed.yaml"
        accounts.apply(plane, accounts.manifests(runtime.read_text()))

    def stop(self, plane: ControlPlane) -> None:
        """Both."""
        for controller in reversed(self._controllers):
            controller.stop(plane)

    def pids(self, plane: ControlPlane) -> list[int]:
        """Two processes."""
        return pids_of(plane, [controller.name for controller in self._controllers])

    def resource(self, name: str) -> Object:
        """A TrainJob on one node of the shipped runtime for PyTorch."""
        return {
            "apiVersion": self.description.api_version,
            "kind": "TrainJob",
            "metadata": {"name": name},
            "spec": {"runtimeRef": {"name": _RUNTIME}},
        }


def local(configuration: Object, plane: ControlPlane, port: int) -> Object:
    """A webhook configuration whose webhooks are called on this machine instead of through a Service."""
    authority = base64.b64encode(plane.settings.pki.certificate("ca").read_bytes()).decode()
    webhooks = [
        {
            **w,
            "clientConfig": {
                "url": f"https://127.0.0.1:{port}{w['clientConfig']['service']['path']}",
                "caBundle": authority,
            },
        }
        for w in configuration["webhooks"]
    ]
    return {**configuration, "webhooks": webhooks}


def merged(old: Object, new: Object) -> Object:
    """`old` with what `new` says, section by section."""
    result = dict(old)
    for key, value in new.items():
        result[key] = merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value
    return result
