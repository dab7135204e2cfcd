"""The objects that a fresh cluster needs: who may do what, the DNS Service, the default StorageClass. Pure data."""

from __future__ import annotations

from typing import Any

from local_cluster.control_plane_flags import DNS_SERVICE_ADDRESS
from local_cluster.network import PodNetwork
from local_cluster.services import PROVISIONER

Manifest = dict[str, Any]
_RBAC = "rbac.authorization.k8s.io"


def manifests(network: PodNetwork) -> list[Manifest]:
    """Everything, in the order in which it is applied."""
    return [
        _dns_role(),
        _binding("system:coredns", "system:coredns"),
        _binding("system:persistent-volume-provisioner", "system:storage-provisioner"),
        _dns_service(),
        _dns_endpoints(network),
        _storage_class(),
    ]


def _dns_role() -> Manifest:
    watch = ["list", "watch"]
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": watch},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
        ],
    }


def _binding(role: str, user: str) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"local-cluster:{user.removeprefix('system:')}"},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": user}],
    }


def _dns_service() -> Manifest:
    """Without a selector: CoreDNS is a process on the host, named by the EndpointSlice."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "clusterIP": DNS_SERVICE_ADDRESS,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    }


def _dns_endpoints(network: PodNetwork) -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-host",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [network.gateway], "conditions": {"ready": True}}],
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    }


def _storage_class() -> Manifest:
    """Binds when the first pod uses the claim, as kind's default class does."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
