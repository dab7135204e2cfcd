"""Names that two sides must spell alike: the API group, labels, annotations, paths inside a stage pod, ports."""

import hashlib

GROUP = "slmops.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
SHORT_NAME = "ftj"

FIELD_MANAGER = "finetune-operator"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_NAME = "app.kubernetes.io/name"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_JOB_NAME = f"{GROUP}/job-name"
LABEL_STAGE = f"{GROUP}/stage"
LABEL_ATTEMPT = f"{GROUP}/attempt"

ANNOTATION_SUSPENDED = f"{GROUP}/suspended-by"
"""On a queue manager's Workload that was stopped for policy.suspend, and that resuming may start again."""
ANNOTATION_REQUEST = f"{GROUP}/request"
"""The StageRequest as JSON on the pod template; the downward API mounts it at REQUEST_PATH."""

WORKSPACE_PATH = "/workspace"
"""The job's own volume: model, tokenised data, checkpoints, results and, without a destination, the artefacts."""
CLAIMS_PATH = "/mnt/claims"
"""A claim named by a pvc:// URI is mounted at CLAIMS_PATH/<claim>; read-only unless it is the destination."""
REQUEST_PATH = "/etc/finetune/request.json"
TERMINATION_LOG_PATH = "/dev/termination-log"

PROGRESS_PORT = 9464
"""Every stage pod serves GET /progress (ProgressReport as JSON) and GET /metrics (Prometheus text) here."""

STAGE_CONTAINER = "stage"

OUTPUT_ENV_PREFIX = "OUTPUT_"
"""In front of the variables of the Secret in output.credentials, so that they never mix with those of a source."""


def workspace_claim(job_name: str) -> str:
    """Name of the claim that the operator makes for a job that names none."""
    return f"{shortened(job_name, 200)}-workspace"


def shortened(name: str, limit: int) -> str:
    """`name`, or its head and a hash of the whole when it is longer than `limit` characters."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
