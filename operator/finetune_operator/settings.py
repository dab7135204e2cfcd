"""What an administrator sets, read from the environment: FINETUNE_<NAME>, lists separated by commas, mappings as JSON.

It decides nothing; values that would contradict each other are refused when the operator starts.
"""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from finetune_operator.core.configuration import Configuration


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Names separated by commas."""
Seconds = Annotated[float, Field(gt=0)]


class OperatorSettings(BaseSettings):
    """Settings of one operator process."""

    model_config = SettingsConfigDict(env_prefix="FINETUNE_", frozen=True, use_attribute_docstrings=True)

    trainer_image: Annotated[str, Field(min_length=1)]
    """Image of every stage pod. Required."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """Pull policy of the trainer image."""
    image_pull_secrets: Names = ()
    """Secrets of the job's namespace with which the trainer image is pulled."""
    operator_namespace: str = "finetune-system"
    """Namespace of the operator; pods of this namespace may read the progress of stage pods."""
    metrics_namespaces: Names = ()
    """Namespaces whose pods may scrape /metrics of stage pods."""
    network_policies: bool = True
    """Whether stage pods are isolated with NetworkPolicies."""
    prepare_memory: str = "4Gi"
    """Memory request and limit of the prepare pod."""
    grace_period_seconds: Annotated[int, Field(ge=1)] = 120
    """Time that a stage pod has to save a checkpoint after SIGTERM."""
    retry_backoff_seconds: Annotated[int, Field(ge=0)] = 10
    """Wait before the second attempt at a stage; it doubles with each further one."""
    retry_backoff_limit_seconds: Annotated[int, Field(ge=0)] = 300
    """Longest wait between attempts at a stage."""
    stage_labels: dict[str, str] = {}
    """Further labels of every stage pod, as a JSON object."""
    stage_env: dict[str, str] = {}
    """Environment of every stage pod, such as HF_ENDPOINT or proxies, as a JSON object."""

    namespaces: Names = ()
    """Namespaces that are served; empty means all of them, which needs a ClusterRole."""
    workers: Annotated[int, Field(ge=1)] = 8
    """FineTuneJobs that are worked on at the same time."""
    resync_seconds: Seconds = 300
    """Time between two comparisons of the cache with the API server, which find what watches have missed."""
    api_connections: Annotated[int, Field(ge=1)] = 16
    """Connections to the API server beside the watches."""
    api_timeout_seconds: Seconds = 30
    """Longest wait for one answer of the API server."""

    progress_interval_seconds: Seconds = 5
    """Shortest time between two readings of one pod's progress."""
    progress_max_rate: Annotated[float, Field(gt=0)] = 20
    """Most readings of progress per second, over all pods; beyond it each pod is read less often."""
    progress_timeout_seconds: Seconds = 3
    """Longest wait for one reading."""
    progress_concurrency: Annotated[int, Field(ge=1)] = 32
    """Readings at the same time."""
    progress_access: Literal["auto", "direct", "proxy"] = "auto"
    """Whether pods are read at their address, through the API server, or (auto) through it where the address fails."""

    http_host: str = ""
    """Address of /healthz, /readyz and /metrics; empty means every address, IPv4 and IPv6."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of /healthz, /readyz and /metrics; 0 takes a free one."""

    leader_election: bool = True
    """Whether replicas elect the one that writes."""
    lease_name: str = "finetune-operator"
    """Name of the Lease of the election, in operator_namespace."""
    lease_duration_seconds: Annotated[int, Field(ge=1)] = 15
    """How long others wait after the leader's last sign of life before one of them takes over."""
    lease_renew_deadline_seconds: Seconds = 10
    """How long the leader goes on writing after its last successful renewal."""
    lease_retry_seconds: Seconds = 2
    """Time between two attempts to get or renew the Lease."""
    identity: str = ""
    """Name of this replica in the Lease; the pod's name by default."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""
    log_format: Literal["json", "console"] = "json"
    """One JSON object per line, or lines for a person."""

    @model_validator(mode="after")
    def _lease_times_fit(self) -> Self:
        retry, deadline, duration = (
            self.lease_retry_seconds,
            self.lease_renew_deadline_seconds,
            self.lease_duration_seconds,
        )
        if not retry < deadline < duration:
            raise ValueError(
                "expected lease_retry_seconds < lease_renew_deadline_seconds < lease_duration_seconds, found "
                f"{retry:g}, {deadline:g}, {duration:g}; otherwise two replicas could write at the same time"
            )
        return self

    def configuration(self) -> Configuration:
        """What decisions about jobs depend on."""
        return Configuration(
            trainer_image=self.trainer_image,
            image_pull_policy=self.image_pull_policy,
            image_pull_secrets=self.image_pull_secrets,
            operator_namespace=self.operator_namespace,
            metrics_namespaces=self.metrics_namespaces,
            network_policies=self.network_policies,
            prepare_memory=self.prepare_memory,
            grace_period_seconds=self.grace_period_seconds,
            retry_backoff_seconds=self.retry_backoff_seconds,
            retry_backoff_limit_seconds=self.retry_backoff_limit_seconds,
            stage_labels=dict(self.stage_labels),
            stage_env=dict(self.stage_env),
        )
