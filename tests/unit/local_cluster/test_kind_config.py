from __future__ import annotations

import yaml

from local_cluster import control_plane_flags, kind_cluster
from local_cluster.network import PodNetwork


def test_kind_gets_three_nodes_and_the_same_networks_as_the_host_cluster() -> None:
    config = yaml.safe_load(kind_cluster.CONFIG.read_text())
    assert (config["kind"], config["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker", "worker"]
    networking = config["networking"]
    assert networking["podSubnet"] == PodNetwork().pod_range
    assert networking["serviceSubnet"] == control_plane_flags.SERVICE_RANGE
