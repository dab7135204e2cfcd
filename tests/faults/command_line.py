"""`python -m faults list|run PATTERN...`: which cases there are, and what comes of them."""

import argparse
import os
import sys
import time
from collections import Counter
from datetime import UTC, datetime

from faults.campaigns import matching
from faults.cases import Case
from faults.runner import Result, Runner, ground, run_all


def main() -> int:
    """0 when every case passed, 1 when one failed, 2 when there is none."""
    asked = _arguments()
    cases = matching(*asked.patterns)
    if not cases:
        sys.stderr.write(f"no case fits {' '.join(asked.patterns)}; `python -m faults list` shows all\n")
        return 2
    if asked.command == "list":
        _say(*(case.id for case in cases))
        return 0
    return _run(cases, asked.parallel)


def _say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("command", choices=("list", "run"))
    parser.add_argument("patterns", nargs="*", default=["*"], help="ids, with * and ?")
    parser.add_argument("--parallel", type=int, default=4 * (os.cpu_count() or 1), help="cases at the same time")
    return parser.parse_args()


def _run(cases: list[Case], parallel: int) -> int:
    started, done = time.monotonic(), 0

    def tell(result: Result) -> None:
        nonlocal done
        done += 1
        verdict = "ok  " if result.passed else "FAIL"
        _say(f"[{done}/{len(cases)}] {verdict} {result.case.id} {result.seconds:.1f} s")
        for problem in result.problems:
            _say(f"    {problem}")

    with ground() as where:
        results = run_all(Runner(where), cases, parallel, tell)
    _say(table(results, time.monotonic() - started))
    return 0 if all(result.passed for result in results) else 1


def table(results: list[Result], seconds: float) -> str:
    """Cases and passed cases of each campaign, and for each failure how to run it again."""
    total, passed = Counter[str](), Counter[str]()
    for result in results:
        total[result.case.campaign] += 1
        passed[result.case.campaign] += result.passed
    width = max(map(len, (*total, "campaign")))
    lines = ["", f"{'campaign':{width}}  cases  passed  failed"]
    lines += [f"{c:{width}}  {total[c]:5}  {passed[c]:6}  {total[c] - passed[c]:6}" for c in total]
    lines.append(f"{'all':{width}}  {total.total():5}  {passed.total():6}  {total.total() - passed.total():6}")
    lines.append(f"{seconds:.0f} s on {os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d}")
    lines += [
        f"FAILED {r.case.id}: {(r.problems[0].splitlines() or ['?'])[0][:160]}\n    make faults FAULTS='{r.case.id}'"
        for r in sorted(results, key=lambda r: r.case.id)
        if not r.passed
    ]
    return "\n".join(lines)
