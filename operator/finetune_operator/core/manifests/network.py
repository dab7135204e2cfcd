"""NetworkPolicies of a job's pods: only operator and Prometheus get in; out get a prepare that downloads, an export
that publishes in a bucket, and later stages to the ports of the tracking servers that the job names.
"""

from typing import Any
from urllib.parse import urlsplit

from finetune_api import names
from finetune_api.sources import sources
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Stage
from finetune_operator.core.configuration import Configuration
from finetune_operator.core.identity import child_metadata, labels, policy_name, uid_of
from finetune_operator.core.observed import Manifest

PUBLIC_WANDB = "https://api.wandb.ai"
DNS_PORT = 53


def network_policies(job: Manifest, spec: FineTuneJobSpec, configuration: Configuration) -> tuple[Manifest, ...]:
    """The policies of a job; NetworkPolicies add up, so each further one only widens the first for some stages."""
    if not configuration.network_policies:
        return ()
    policies = [_isolation(job, configuration)]
    if downloads(spec) or publishes_in_bucket(spec):
        policies.append(_way_out(job, "download", Stage.PREPARE))
    if publishes_in_bucket(spec):
        policies.append(_way_out(job, "upload", Stage.EXPORT))
    if addresses := tracking_addresses(spec):
        policies.append(_reporting(job, addresses))
    return tuple(policies)


def tracking_addresses(spec: FineTuneJobSpec) -> list[str]:
    """Addresses of the tracking servers of spec.reporting."""
    reporting = spec.reporting
    mlflow = [reporting.mlflow.tracking_uri] if reporting.mlflow else []
    return mlflow + ([reporting.wandb.base_url or PUBLIC_WANDB] if reporting.wandb else [])


def downloads(spec: FineTuneJobSpec) -> bool:
    """Whether prepare needs the network for what it reads."""
    return any(not source.source.startswith("pvc://") for source in sources(spec).values())


def publishes_in_bucket(spec: FineTuneJobSpec) -> bool:
    """Whether export needs the network for its artefacts; prepare then finds out whether it may write there."""
    return not (spec.output.destination or "pvc://").startswith("pvc://")


def _isolation(job: Manifest, configuration: Configuration) -> Manifest:
    readers = (configuration.operator_namespace, *configuration.metrics_namespaces)
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": reader}}} for reader in readers]
    spec = {
        "podSelector": {"matchLabels": {names.LABEL_JOB_UID: uid_of(job)}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers, "ports": [{"protocol": "TCP", "port": names.PROGRESS_PORT}]}],
        "egress": [],
    }
    return _policy(job, "isolation", spec)


def _way_out(job: Manifest, purpose: str, stage: Stage) -> Manifest:
    """To anywhere: a hub redirects, and the address of a store may stand in a Secret, which is never read here."""
    wanted = (names.LABEL_JOB_UID, names.LABEL_STAGE)
    selector = {key: value for key, value in labels(job, stage).items() if key in wanted}
    spec = {"podSelector": {"matchLabels": selector}, "policyTypes": ["Egress"], "egress": [{}]}
    return _policy(job, purpose, spec)


def _reporting(job: Manifest, addresses: list[str]) -> Manifest:
    """A policy knows no host names, so what is named is the ports, and name resolution."""
    tcp = sorted({_port(address) for address in addresses})
    ports = [{"protocol": "UDP", "port": DNS_PORT}, *({"protocol": "TCP", "port": port} for port in (DNS_PORT, *tcp))]
    stages = {"key": names.LABEL_STAGE, "operator": "NotIn", "values": [Stage.PREPARE]}
    selector = {"matchLabels": {names.LABEL_JOB_UID: uid_of(job)}, "matchExpressions": [stages]}
    spec = {"podSelector": selector, "policyTypes": ["Egress"], "egress": [{"ports": ports}]}
    return _policy(job, "reporting", spec)


def _port(address: str) -> int:
    parts = urlsplit(address)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _policy(job: Manifest, purpose: str, spec: dict[str, Any]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(job, policy_name(job, purpose)),
        "spec": spec,
    }
