"""Reads FineTuneJobs from the API server that kubeconfig or the pod's service account names."""

import time
from collections.abc import Iterator

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from finetune_api import names
from finetune_api.v1alpha1 import FineTuneJob


class NotFoundError(Exception):
    """There is no such FineTuneJob."""


class Cluster:
    """One API server, seen through one kubeconfig context."""

    def __init__(self, context: str | None = None, kubeconfig: str | None = None) -> None:
        config.load_kube_config(config_file=kubeconfig, context=context)
        self._api = client.CustomObjectsApi()

    def job(self, namespace: str, name: str) -> FineTuneJob:
        """The FineTuneJob `namespace`/`name`; NotFoundError when it is not there."""
        try:
            document = self._api.get_namespaced_custom_object(
                names.GROUP, names.VERSION, namespace, names.PLURAL, name, _request_timeout=30
            )
        except ApiException as error:
            if error.status == 404:
                raise NotFoundError(f"there is no FineTuneJob {name} in namespace {namespace}") from None
            raise
        return FineTuneJob.model_validate(document, extra="ignore")

    def follow(self, namespace: str, name: str, interval: float = 2.0) -> Iterator[FineTuneJob]:
        """The job again and again, every `interval` seconds, until it has ended."""
        while True:
            job = self.job(namespace, name)
            yield job
            if job.status.phase.terminal:
                return
            time.sleep(interval)
