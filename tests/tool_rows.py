"""Rows with tools: a question about the weather, the call that it asks for, and in turn the result and the answer."""

from typing import Any

CITIES = ("Paris", "Rome", "Vienna")
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
END = "<|im_end|>"


def tool_rows(count: int) -> list[dict[str, Any]]:
    """Of three rows two end with the call, and one goes on with its result and the answer."""
    return [{"messages": _turns(number), "tools": [WEATHER]} for number in range(count)]


def learned_texts() -> set[str]:
    """What carries loss in such rows, as Qwen's template writes it: calls and answers, each with its end token."""
    calls = {
        city: f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' for city in CITIES
    }
    with_answers = {f"{call}{END}{_answer(city)}{END}" for city, call in calls.items()}
    return {f"{call}{END}" for call in calls.values()} | with_answers


def _turns(number: int) -> list[dict[str, Any]]:
    city = CITIES[number // 3 % 3]
    call = {"id": f"c{number}", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
    turns = [
        {"role": "user", "content": f"{number}: weather in {city}?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    if number % 3:
        return turns
    result = {"role": "tool", "tool_call_id": call["id"], "name": "weather", "content": "seven degrees"}
    return [*turns, result, {"role": "assistant", "content": _answer(city)}]


def _answer(city: str) -> str:
    return f"It is mild in {city}."
