"""The commands: up, status, down, load, build, kubeconfig, path. Results go to standard output, progress to standard
error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from local_cluster import binaries, clusters, images, locations
from local_cluster.cluster import Status
from local_cluster.errors import LocalClusterError
from local_cluster.lock import exclusive
from local_cluster.versions import COMPONENTS

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; errors the user can act on are printed without a traceback."""
    options = _parser().parse_args(arguments)
    try:
        result: int = options.run(options)
    except LocalClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `up` goes on from here, `down` takes everything away", file=sys.stderr)
        return INTERRUPTED
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="local_cluster", description=__doc__)
    parser.add_argument("--context", help="use this context of your kubeconfig (also: KUBE_CONTEXT)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, summary in (
        ("up", _up, "start a cluster, or what is missing of it"),
        ("down", _down, "take away everything that up made; caches stay"),
        ("kubeconfig", _kubeconfig, "print the path of the kubeconfig"),
    ):
        commands.add_parser(name, help=summary).set_defaults(run=run)
    _add_status(commands)
    _add_images(commands)
    path = commands.add_parser("path", help="print a program's path, making it available first")
    path.add_argument("name", choices=sorted(COMPONENTS))
    path.set_defaults(run=_path)
    return parser


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    status = commands.add_parser("status", help="say what runs; exit code 0 only if all is well")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)


def _add_images(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    load = commands.add_parser("load", help="make images available to pods; print the references to use")
    load.add_argument("images", nargs="+", metavar="IMAGE")
    load.set_defaults(run=_load)
    build = commands.add_parser("build", help="build an image from a Dockerfile")
    build.add_argument("tag")
    build.add_argument("--file", type=Path, required=True, metavar="DOCKERFILE")
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    build.add_argument("--build-context", type=Path, default=images.REPOSITORY_ROOT, metavar="FOLDER")
    build.set_defaults(run=_build)


def _up(options: argparse.Namespace) -> int:
    with exclusive(locations.from_environment().lock):
        cluster = clusters.choose_now(options.context)
        cluster.up()
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def _down(options: argparse.Namespace) -> int:
    with exclusive(locations.from_environment().lock):
        clusters.chosen(options.context).down()
        clusters.forget()
    return 0


def _status(options: argparse.Namespace) -> int:
    status = clusters.chosen(options.context).status()
    print(json.dumps(status.as_json(), indent=2) if options.json else _describe(status))
    return 0 if status.healthy else 1


def _describe(status: Status) -> str:
    health = "healthy" if status.healthy else "not healthy"
    lines = [f"{health}: {status.provider}, Kubernetes {status.version or 'unknown'}"]
    lines += [f"  {name}: {state}" for name, state in status.components.items()]
    lines += [f"  node {name}: {'Ready' if ready else 'not Ready'}" for name, ready in status.nodes.items()]
    lines += [f"  {name}: {value}" for name, value in {"kubeconfig": status.kubeconfig, **status.details}.items()]
    return "\n".join(lines + [f"missing: {what}" for what in status.missing])


def _load(options: argparse.Namespace) -> int:
    cluster = clusters.chosen(options.context)
    for tag in options.images:
        print(cluster.load(images.reference(tag)))
    return 0


def _build(options: argparse.Namespace) -> int:
    arguments = dict(pair.split("=", 1) for pair in options.build_arg)
    print(images.build(options.file, options.tag, arguments, options.build_context).tag)
    return 0


def _kubeconfig(options: argparse.Namespace) -> int:
    print(clusters.chosen(options.context).kubeconfig)
    return 0


def _path(options: argparse.Namespace) -> int:
    print(binaries.path(options.name))
    return 0
