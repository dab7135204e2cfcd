"""NetworkPolicies of a job's pods: only operator and Prometheus get in, only a prepare that downloads gets out."""

from typing import Any

from finetune_api import names
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import Stage
from finetune_operator.core.configuration import Configuration
from finetune_operator.core.identity import child_metadata, labels, policy_name, uid_of
from finetune_operator.core.observed import Manifest


def network_policies(job: Manifest, spec: FineTuneJobSpec, configuration: Configuration) -> tuple[Manifest, ...]:
    """The policies of a job; NetworkPolicies add up, so the second one only widens the first for prepare."""
    if not configuration.network_policies:
        return ()
    policies = [_isolation(job, configuration)]
    if downloads(spec):
        policies.append(_download(job))
    return tuple(policies)


def downloads(spec: FineTuneJobSpec) -> bool:
    """Whether prepare needs the network."""
    sources = [spec.model.source, spec.dataset.train.source]
    if spec.dataset.eval:
        sources.append(spec.dataset.eval.source)
    return any(not source.startswith("pvc://") for source in sources)


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


def _download(job: Manifest) -> Manifest:
    selector = {
        key: value
        for key, value in labels(job, Stage.PREPARE).items()
        if key in (names.LABEL_JOB_UID, names.LABEL_STAGE)
    }
    return _policy(
        job, "download", {"podSelector": {"matchLabels": selector}, "policyTypes": ["Egress"], "egress": [{}]}
    )


def _policy(job: Manifest, purpose: str, spec: dict[str, Any]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(job, policy_name(job, purpose)),
        "spec": spec,
    }
