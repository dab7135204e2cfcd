"""Rows of task: extraction: orders as JSON."""

import json
from typing import Any

ITEMS = ("tea", "bread", "rice")


def order(number: int) -> dict[str, Any]:
    return {"item": ITEMS[number % 3], "count": number % 9 + 1}


def order_rows(count: int) -> list[dict[str, Any]]:
    """Answers in turn as text and as an object."""
    rows = [
        {"prompt": f"Order {i}: {order(i)['count']} {order(i)['item']}", "completion": order(i)} for i in range(count)
    ]
    return [row if i % 2 else {**row, "completion": json.dumps(order(i))} for i, row in enumerate(rows)]
