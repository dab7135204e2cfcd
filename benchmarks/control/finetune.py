"""Our operator, a process of its own with the permissions and the settings that the chart gives it by default."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from control import accounts
from control.system import Description, Object, answers, pids_of
from finetune_api import names
from local_cluster import binaries, ports
from local_cluster.command import run
from local_cluster.control_plane import ControlPlane

REPOSITORY = Path(__file__).parents[2]
NAMESPACE = "finetune-system"
READY_SECONDS = 120.0
_PERMISSIONS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
_PROCESS = "operator"


class FineTune:
    """The system under test that this repository holds."""

    description = Description(
        name="finetune",
        title="FineTuneJob operator",
        api_version=names.API_VERSION,
        plural=names.PLURAL,
        job_label=names.LABEL_JOB_NAME,
        ended="Succeeded",
        users=(accounts.user_name(NAMESPACE, names.FIELD_MANAGER),),
    )

    def __init__(self) -> None:
        self._port = ports.free(1)[0]

    def define(self, plane: ControlPlane) -> None:
        """The CRD of this repository."""
        accounts.apply(
            plane, accounts.manifests((REPOSITORY / "crds" / f"{names.GROUP}_{names.PLURAL}.yaml").read_text())
        )

    def start(self, plane: ControlPlane) -> None:
        """Permissions and environment of the chart; the addresses are those of this machine."""
        chart = rendered_chart()
        accounts.make_namespace(plane, NAMESPACE)
        accounts.apply(plane, accounts.of_kinds(chart, *_PERMISSIONS))
        here = {
            "KUBECONFIG": str(accounts.kubeconfig(plane, NAMESPACE, names.FIELD_MANAGER)),
            "FINETUNE_HTTP_HOST": "127.0.0.1",
            "FINETUNE_HTTP_PORT": str(self._port),
        }
        command = [sys.executable, "-m", "finetune_operator"]
        plane.processes.start(_PROCESS, command, environment(chart) | here)
        plane.processes.wait_healthy(_PROCESS, self._ready, READY_SECONDS)

    def stop(self, plane: ControlPlane) -> None:
        """Ask the operator to stop, as a kubelet does."""
        plane.processes.stop([_PROCESS], grace=10.0)

    def pids(self, plane: ControlPlane) -> list[int]:
        """One process."""
        return pids_of(plane, [_PROCESS])

    def resource(self, name: str) -> Object:
        """A job that says only what has no default."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name},
            "spec": {
                "model": {"source": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
                "dataset": {"train": {"source": "pvc://datasets/support/train.jsonl"}},
            },
        }

    def _ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self._port}/readyz")


def rendered_chart() -> list[Object]:
    """The chart with its default values."""
    chart = REPOSITORY / "charts" / names.FIELD_MANAGER
    command: list[str | Path] = [
        binaries.path("helm"),
        "template",
        names.FIELD_MANAGER,
        chart,
        "--namespace",
        NAMESPACE,
    ]
    return [obj for obj in yaml.safe_load_all(run(command)) if obj]


def environment(chart: list[Object]) -> dict[str, str]:
    """The environment of the operator's container; what the kubelet would fill in is made up."""
    (deployment,) = accounts.of_kinds(chart, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    return given | {"FINETUNE_OPERATOR_NAMESPACE": NAMESPACE, "FINETUNE_IDENTITY": "operator-0"}
