from __future__ import annotations

import pytest

from local_cluster.choice import Provider, Surroundings, choose


@pytest.mark.parametrize(
    ("found", "want_provider"),
    [
        (Surroundings(context="mine", docker_answers=True, root=True), Provider.CONTEXT),
        (Surroundings(context="mine", system="darwin"), Provider.CONTEXT),
        (Surroundings(docker_answers=True, root=True), Provider.KIND),
        (Surroundings(docker_answers=True, system="darwin"), Provider.KIND),
        (Surroundings(root=True), Provider.HOST),
        (Surroundings(root=False), None),
        (Surroundings(root=True, system="darwin"), None),
    ],
)
def test_the_first_open_way_is_taken(found: Surroundings, want_provider: Provider | None) -> None:
    assert choose(found).provider == want_provider


def test_the_named_context_travels_with_the_choice() -> None:
    assert choose(Surroundings(context="mine")).context == "mine"


def test_no_way_says_what_would_open_one() -> None:
    reason = choose(Surroundings(root=False)).reason
    assert "needs root" in reason
    assert "KUBE_CONTEXT" in reason
    assert "Start Docker" in reason
