"""The steps of the demo, in order. Each can be interrupted and done again; what is there is kept."""

import sys

from demo import assets, installation, volume
from demo.kubectl import Kubectl
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
    kubectl("apply", "--server-side", "-f", str(EXAMPLES / "demo-namespace.yaml"))
    with step("fetching SmolLM2-135M-Instruct and Reuters R8"):
        folder = assets.assets()
    volume.fill(kubectl, NAMESPACE, "assets", folder, made.trainer)
    _apply_job(kubectl)
    code = app.main(["--kubeconfig", str(kubectl.kubeconfig), "watch", JOB, "-n", NAMESPACE])
    _say_what_next(kubectl)
    return code


def _apply_job(kubectl: Kubectl) -> None:
    """A job that runs is followed; one that has ended makes room for a new one."""
    try:
        job = Cluster(kubeconfig=str(kubectl.kubeconfig)).job(NAMESPACE, JOB)
    except NotFoundError:
        pass
    else:
        if not job.status.phase.terminal:
            say(f"FineTuneJob {JOB} is running already; following it")
            return
        say(f"deleting FineTuneJob {JOB} of an earlier demo ({job.status.phase})")
        kubectl("delete", "finetunejob", JOB, "-n", NAMESPACE, "--cascade=foreground", "--timeout=120s")
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
