"""The command `kubectl finetune`. Data goes to stdout, progress to stderr; NO_COLOR is honoured."""

import argparse
import sys

from rich.console import Console

from finetune_api.status import Phase
from finetune_cli import render
from finetune_cli.cluster import Cluster, NotFoundError


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a job that failed, or 2 for a call that cannot be served."""
    arguments = _parser().parse_args(argv)
    try:
        cluster = Cluster(arguments.context, arguments.kubeconfig)
        result: int = arguments.command(cluster, arguments)
    except NotFoundError as error:
        print(f"kubectl finetune: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        return 130
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubectl finetune", description="kubectl finetune: follow and summarise FineTuneJobs"
    )
    parser.add_argument("--context", help="kubeconfig context")
    parser.add_argument("--kubeconfig", help="kubeconfig file; KUBECONFIG or ~/.kube/config by default")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function, text in (
        ("watch", watch, "follow a job until it has ended, then print its summary"),
        ("summary", summary, "print base against tuned model, artifacts, parity and times"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("name", help="FineTuneJob")
        command.add_argument("-n", "--namespace", default="default")
        command.set_defaults(command=function)
    return parser


def watch(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Follow a job: one live line on a terminal, a line per change elsewhere."""
    console = Console(stderr=True)
    last = ""
    with console.status("") as live:
        for job in cluster.follow(arguments.namespace, arguments.name):
            line = render.progress_line(job)
            live.update(line)
            if line != last and not console.is_terminal:
                console.print(line, highlight=False, soft_wrap=True)
            last = line
    return _conclude(cluster, arguments)


def summary(cluster: Cluster, arguments: argparse.Namespace) -> int:
    """Print the summary of a job."""
    return _conclude(cluster, arguments)


def _conclude(cluster: Cluster, arguments: argparse.Namespace) -> int:
    job = cluster.job(arguments.namespace, arguments.name)
    Console(width=None if sys.stdout.isatty() else 160).print(render.summary(job))
    return 1 if job.status.phase is Phase.FAILED else 0


if __name__ == "__main__":
    sys.exit(main())
