"""An installed operator: a namespace with the chart's permissions, and replicas behind gateways."""

from pathlib import Path

from apiserver.gateway import Gateway
from apiserver.operator_process import OperatorProcess, permissions, token
from apiserver.team import Team
from finetune_api.names import FIELD_MANAGER
from local_cluster.control_plane import ControlPlane


class Installation:
    """A namespace, an operator that serves it, and the gateway between that operator and the API server."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path, *, whole_cluster: bool = False) -> None:
        self.plane = plane
        self.folder = folder
        self.team = Team(plane, namespace, permissions(namespace, whole_cluster=whole_cluster))
        self.bearer = token(plane, namespace)
        self.gateways: list[Gateway] = []
        self.operators: list[OperatorProcess] = []
        self.whole_cluster = whole_cluster

    @property
    def account(self) -> str:
        """The name by which the audit log knows the operator."""
        return f"system:serviceaccount:{self.team.namespace}:{FIELD_MANAGER}"

    def operator(self, **settings: object) -> OperatorProcess:
        """One more replica, behind a gateway of its own, that has not been started."""
        gateway = Gateway(self.plane).__enter__()
        self.gateways.append(gateway)
        served = {"namespaces": ""} if self.whole_cluster else {}
        process = OperatorProcess(gateway, self.folder, self.team.namespace, self.bearer, **served, **settings)
        self.operators.append(process)
        return process

    @property
    def gateway(self) -> Gateway:
        return self.gateways[0]

    def close(self) -> None:
        for operator in self.operators:
            operator.cleanup()
        for gateway in self.gateways:
            gateway.__exit__()
