"""`finetune-trainer`: one stage of a job as a pod runs it, or a whole job without Kubernetes.

Only parses arguments: everything that takes time to import is imported inside the command.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from finetune_api.names import CLAIMS_PATH, PROGRESS_PORT, REQUEST_PATH, TERMINATION_LOG_PATH, WORKSPACE_PATH
from finetune_api.status import Stage

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - a pod's port is reached from outside; a NetworkPolicy bounds who may


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    command: int = options.command(options)
    return command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune-trainer", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('finetune-operator')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for stage in Stage:
        _add_stage(commands.add_parser(stage, help=f"run stage {stage} of a job and exit with its code"), stage)
    _add_run(commands.add_parser("run", help="run a whole job here, without Kubernetes"))
    return parser


def _add_stage(parser: argparse.ArgumentParser, stage: Stage) -> None:
    add = parser.add_argument
    add("--request", type=Path, default=Path(REQUEST_PATH), metavar="FILE", help="StageRequest as JSON (%(default)s)")
    add("--workspace", type=Path, default=Path(WORKSPACE_PATH), help="the job's volume (%(default)s)")
    add("--claims", type=Path, default=Path(CLAIMS_PATH), help="folder where claims are mounted (%(default)s)")
    add("--claim", action="append", default=[], type=_claim, metavar="NAME=PATH", help="claim NAME lies at PATH")
    add("--termination-log", type=Path, default=Path(TERMINATION_LOG_PATH), metavar="FILE", help="(%(default)s)")
    add("--port", type=int, default=PROGRESS_PORT, help="port of /progress and /metrics, 0 = off (%(default)s)")
    add("--host", default=ANY_ADDRESS, help="address to listen on (%(default)s)")
    add("--log", choices=["auto", "json", "text"], default="auto", help="form of the log lines (%(default)s)")
    parser.set_defaults(command=_stage, stage=stage)


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--job", type=Path, required=True, metavar="FILE", help="FineTuneJob as YAML or JSON")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for model, checkpoints, results, artefacts")
    add(
        "--claim",
        action="append",
        default=[],
        type=_claim,
        metavar="NAME=PATH",
        help="folder that stands for pvc://NAME",
    )
    add("--stage", action="append", default=[], type=Stage, choices=[*Stage], help="only this stage; may be repeated")
    parser.set_defaults(command=_run)


def _claim(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must look like NAME=PATH, not {text!r}")
    return name, Path(path).absolute()


def _stage(options: argparse.Namespace) -> int:
    from finetune_trainer import event_log
    from finetune_trainer.stage_runner import Surroundings, run_stage

    event_log.configure(form=options.log)
    named = dict(options.claim)
    surroundings = Surroundings(
        workspace=options.workspace.absolute(),
        claim_path=lambda claim: named.get(claim) or options.claims / claim,
        termination_log=options.termination_log,
        host=options.host,
        port=options.port or None,
    )
    return run_stage(options.stage, options.request, surroundings)


def _run(options: argparse.Namespace) -> int:
    from finetune_trainer.local_run import run_job

    stages = [stage for stage in Stage if not options.stage or stage in options.stage]
    return run_job(options.job, options.output.absolute(), dict(options.claim), stages)


if __name__ == "__main__":
    sys.exit(main())
