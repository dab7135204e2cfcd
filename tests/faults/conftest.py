"""Cases that the chosen tests name are run together, before the first of them is judged."""

from collections.abc import Iterator

import pytest

from faults.campaigns import all_cases
from faults.runner import Result, Runner, ground, run_all

PARALLEL = 10


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Iterator[dict[str, Result]]:
    """Results by the id of the case."""
    cases = all_cases()
    named = {case_id for item in request.session.items if (case_id := _named(item))}
    found: dict[str, Result] = {}

    def keep(result: Result) -> None:
        found[result.case.id] = result

    with ground() as where:
        run_all(Runner(where), [cases[case_id] for case_id in sorted(named)], PARALLEL, keep)
        yield found


def _named(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("case_id") if callspec else None
