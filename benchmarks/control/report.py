"""Turns results into tables: for the terminal, and as the Markdown of docs/benchmarks/control-plane.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from control import figures

Result = Mapping[str, Any]
"""A results file: what was measured, on which machine, and when."""
Column = tuple[str, Callable[[Result], str]]


def markdown(results: Result) -> str:
    """The tables of a results file."""
    parts = [_origin(results)]
    measured: list[Result] = list(results["measurements"])
    if measured:
        parts += ["## Load\n", table(_LOAD, measured), "## Cost of one resource, whole life\n", table(_COST, measured)]
        parts += ["## Requests of one resource, whole life, by verb and kind\n", _requests(measured)]
    for scale in results["scales"]:
        parts.append(f"## {scale['title']} with {scale['jobs']} jobs\n\n{table(_SCALE, _scale_rows(scale))}")
    return "\n".join(parts)


def table(columns: Sequence[Column], rows: Sequence[Result]) -> str:
    """A Markdown table."""
    lines = [_line([title for title, _ in columns]), _line(["---"] * len(columns))]
    lines += [_line([cell(row) for _, cell in columns]) for row in rows]
    return "".join(lines)


def per_job(row: Result, seconds: float) -> str:
    """Processor milliseconds of one job."""
    return f"{1000 * seconds / row['jobs']:.1f}"


def writes_per_job(row: Result) -> float:
    """Requests of the operator that change something."""
    return figures.writes(row["operator_requests"]) / float(row["jobs"])


def reads_per_job(row: Result) -> float:
    """Requests of the operator that only look."""
    return figures.reads(row["operator_requests"]) / float(row["jobs"])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _origin(results: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"Measured {results['date']} on {results['machine']}, with {versions}.\n"


def _load(row: Result) -> str:
    return f"{row['jobs']} at once" if row["rate"] is None else f"{row['jobs']} at {row['rate']:g}/s"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f}"


def _end(row: Result) -> str:
    seconds = row["seconds_to_last_end"]
    return "not measured" if seconds is None else f"{seconds:.1f}"


def _busy(row: Result) -> str:
    costs = row["to_children"]
    return f"{costs['others'] / costs['seconds']:.2f}"


def _requests(rows: Sequence[Result]) -> str:
    kinds = sorted({request for row in rows for request in row["operator_requests"]})
    columns: list[Column] = [("request", lambda request: str(request["request"]))]
    columns += [(f"{row['title']}, {_load(row)}", _count_of(row)) for row in rows]
    return table(columns, [{"request": kind} for kind in kinds])


def _count_of(row: Result) -> Callable[[Result], str]:
    def cell(request: Result) -> str:
        return f"{row['operator_requests'].get(request['request'], 0) / row['jobs']:.2f}"

    return cell


def _component(name: str) -> Callable[[Result], str]:
    return lambda row: per_job(row, row["whole"]["components"].get(name, 0.0))


_LOAD: tuple[Column, ...] = (
    ("system", lambda row: str(row["title"])),
    ("load", _load),
    ("child Jobs per second", lambda row: f"{row['children_per_second']:.1f}"),
    ("alone (estimate)", lambda row: f"{row['alone_per_second']:.1f}" if row["rate"] is None else ""),
    ("creation to child p50, ms", lambda row: _milliseconds(row["p50"])),
    ("p99, ms", lambda row: _milliseconds(row["p99"])),
    ("all ended well, s", _end),
    ("cores used by others", _busy),
)

_COST: tuple[Column, ...] = (
    ("system", lambda row: str(row["title"])),
    ("load", _load),
    ("operator CPU, ms", lambda row: per_job(row, row["whole"]["operator"])),
    ("until the child, ms", lambda row: per_job(row, row["to_children"]["operator"])),
    ("API server, ms", _component("kube-apiserver")),
    ("etcd, ms", _component("etcd")),
    ("controller manager, ms", _component("kube-controller-manager")),
    ("writes", lambda row: f"{writes_per_job(row):.2f}"),
    ("reads", lambda row: f"{reads_per_job(row):.2f}"),
    ("peak memory, MiB", lambda row: f"{row['peak_mib']:.0f}"),
)

_SCALE: tuple[Column, ...] = (("figure", lambda row: str(row["figure"])), ("value", lambda row: str(row["value"])))


def _scale_rows(scale: Result) -> list[Result]:
    first, second = scale["first_half"], scale["second_half"]
    values = {
        f"first {first['jobs']}: child Jobs per second": f"{first['jobs'] / first['seconds']:.1f}",
        f"next {second['jobs']}: child Jobs per second": f"{second['jobs'] / second['seconds']:.1f}",
        f"operator CPU of one of the first {first['jobs']}, ms": per_job(first, first["operator"]),
        f"operator CPU of one of the next {second['jobs']}, ms": per_job(second, second["operator"]),
        "growth of that (1 is linear)": f"{scale['growth']:.2f}",
        "peak memory, MiB": f"{scale['peak_mib']:.0f}",
        "a new process is ready after, s": f"{scale['ready_seconds']:.1f}",
        "of that its CPU, s": f"{scale['ready_operator']:.1f}",
        "its peak memory, MiB": f"{scale['restarted_peak_mib']:.0f}",
        f"then {scale['rate_jobs']} at {scale['rate']:g}/s: creation to child p50, ms": _milliseconds(
            scale["rate_p50"]
        ),
        "p99, ms": _milliseconds(scale["rate_p99"]),
        "slowest, ms": _milliseconds(scale["rate_slowest"]),
    }
    return [{"figure": figure, "value": value} for figure, value in values.items()]
