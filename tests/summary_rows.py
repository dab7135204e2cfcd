"""Rows of task: summarization: minutes and what was decided."""

PLACES = ("Vienna", "Rome", "Paris")
DECISIONS = ("buy a smaller rival", "cut the delivery times", "open a bank")


def summary_rows(count: int) -> list[dict[str, str]]:
    """Ragged minutes of which one sentence says all."""
    rows = []
    for i in range(count):
        place, decision = PLACES[i % 3], DECISIONS[i // 3 % 3]
        minutes = f"{'The minutes were read. ' * (i % 2)}Meeting {i} was in {place}. The company will {decision}."
        rows.append({"minutes": minutes, "summary": f"In {place}: {decision}."})
    return rows
