"""The steps of the demo, in order. Each can be interrupted and done again; what is there is kept."""

import sys

from demo import assets, installation, volume
from demo.kubectl import Kubectl
from finetune_api.status import Phase
from finetune_cli import app
from finetune_cli.cluster import Cluster, NotFoundError
from local_cluster import command_line as local_cluster
from local_cluster.errors import LocalClusterError
from local_cluster.progress import say, step

NAMESPACE = "finetune-demo"
JOB = "reuters-topics"
EXAMPLES = installation.ROOT / "examples"


def main() -> int:
    """Run the demo; the exit code is that of the job."""
    if (code := local_cluster.main(["up"])) != 0:
        return code
    made = installation.make_images()
    kubectl = Kubectl()
    installation.install(kubectl, made)
    _make_room(kubectl)
    kubectl("apply", "--server-side", "-f", str(EXAMPLES / "demo-namespace.yaml"))
    with step("fetching SmolLM2-135M-Instruct and Reuters R8"):
        folder = assets.assets()
    volume.fill(kubectl, NAMESPACE, "assets", folder, made.trainer)
    _apply_job(kubectl)
    code = app.main(["--kubeconfig", str(kubectl.kubeconfig), "watch", JOB, "-n", NAMESPACE])
    _say_what_next(kubectl)
    return code


def _phase(kubectl: Kubectl) -> Phase | None:
    """Phase of the demo's job; None when there is none."""
    try:
        return Cluster(kubeconfig=str(kubectl.kubeconfig)).job(NAMESPACE, JOB).status.phase
    except NotFoundError:
        return None


def _make_room(kubectl: Kubectl) -> None:
    """A job that has ended goes, and what it published with it: a destination belongs to the job that wrote it."""
    phase = _phase(kubectl)
    if phase is not None and phase.terminal:
        say(f"deleting FineTuneJob {JOB} of an earlier demo ({phase}) and what it published")
        kubectl("delete", "finetunejob", JOB, "-n", NAMESPACE, "--cascade=foreground", "--timeout=120s")
        kubectl("delete", "pvc", "models", "-n", NAMESPACE, "--timeout=120s")


def _apply_job(kubectl: Kubectl) -> None:
    """A job that runs is followed."""
    if _phase(kubectl) is not None:
        say(f"FineTuneJob {JOB} is there already; following it")
    else:
        say(kubectl("apply", "--server-side", "-n", NAMESPACE, "-f", str(EXAMPLES / "demo.yaml")).strip())


def _say_what_next(kubectl: Kubectl) -> None:
    say("")
    say("Look around:")
    say(f"  export KUBECONFIG={kubectl.kubeconfig}")
    say(f"  kubectl get ftj -n {NAMESPACE} -o wide")
    say(f"  kubectl describe ftj {JOB} -n {NAMESPACE}")
    say("  make cluster-down   # takes everything away")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LocalClusterError as error:
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; `make demo` goes on from here, `make cluster-down` takes everything away")
        sys.exit(130)
