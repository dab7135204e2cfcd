"""What an administrator sets for all jobs, as far as decisions depend on it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Configuration:
    """Installation-wide facts and limits."""

    trainer_image: str
    """Image of every stage pod."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    operator_namespace: str = "finetune-system"
    """Namespace of the operator; its pods may read progress."""
    metrics_namespaces: tuple[str, ...] = ()
    """Namespaces whose pods may scrape /metrics of stage pods."""
    network_policies: bool = True
    """Whether to isolate stage pods with NetworkPolicies."""
    prepare_memory: str = "4Gi"
    """Memory request and limit of the prepare pod."""
    grace_period_seconds: int = 120
    """Time that a stage pod has to save a checkpoint after SIGTERM."""
    retry_backoff_seconds: int = 10
    """Wait before the second attempt; it doubles with each further one."""
    retry_backoff_limit_seconds: int = 300
    """Longest wait between attempts."""
    stage_labels: dict[str, str] = field(default_factory=dict)
    """Further labels of every stage pod."""
    stage_env: dict[str, str] = field(default_factory=dict)
    """Environment of every stage pod, such as HF_ENDPOINT or proxies."""
