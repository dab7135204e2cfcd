"""All cases of all campaigns, by id."""

from fnmatch import fnmatchcase

from faults import answers, control_planes, kills, known_failures, replicas, user_actions, watch_faults
from faults.cases import Case, baselines


def all_cases() -> dict[str, Case]:
    """Every case, in the order in which they run."""
    found = [*baselines()]
    for campaign in (kills, answers, user_actions, watch_faults, replicas, known_failures, control_planes):
        found += campaign.cases()
    assert len(found) == len({case.id for case in found}), "two cases have one id"
    return {case.id: case for case in found}


def matching(*patterns: str) -> list[Case]:
    """Cases whose id fits one of some patterns with * and ?."""
    return [case for case in all_cases().values() if any(fnmatchcase(case.id, pattern) for pattern in patterns)]
