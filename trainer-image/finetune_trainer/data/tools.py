"""Functions that an assistant may call, and its calls, as chat templates want them: objects, never JSON inside JSON.

Data keeps both in two forms: as objects, or as JSON text (the OpenAI format for arguments; many datasets for tools,
because a table would give every schema the keys of all others). Both become the same objects here.
"""

import json
from typing import Any

from finetune_trainer.data.records import UnusableRowError, kind_of

Tool = dict[str, Any]


def parsed_tools(value: Any) -> tuple[Tool, ...]:  # noqa: ANN401 - any JSON value
    """The JSON schemas in the column `tools`; none when it is null or empty. Raises UnusableRowError."""
    tools = _decoded(value, "tools") if isinstance(value, str) and value.strip() else value
    if not tools:
        return ()
    if not isinstance(tools, list):
        raise UnusableRowError(f"tools is {kind_of(tools)}, not a list of functions")
    return tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools))


def parsed_calls(value: Any, name: str) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON value
    """The calls in `value`, called `name` in messages, each {id?, type, function: {name, arguments: object}}.

    Raises UnusableRowError.
    """
    calls = _decoded(value, name) if isinstance(value, str) else value
    if not isinstance(calls, list) or not calls:
        raise UnusableRowError(f"{name} is {kind_of(calls)}, not a list of calls")
    return [_call(call, f"{name}[{i}]") for i, call in enumerate(calls)]


def called_before_offered(messages: tuple[dict[str, Any], ...], tools: tuple[Tool, ...]) -> str | None:
    """The first function that is called in `messages` and is not among `tools`."""
    offered = {tool["function"]["name"] for tool in tools}
    called = (call["function"]["name"] for message in messages for call in message.get("tool_calls", ()))
    return next((str(name) for name in called if name not in offered), None)


def _tool(tool: Any, name: str) -> Tool:  # noqa: ANN401 - any JSON value
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise UnusableRowError(f"{name} is not {{type: function, function: {{name, description, parameters}}}}")
    if not isinstance(function.get("parameters", {}), dict):
        raise UnusableRowError(f"{name}.function.parameters is {kind_of(function['parameters'])}, not a JSON schema")
    if "function" in tool:
        return {"type": "function", **tool}
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _call(call: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise UnusableRowError(f"{name} is not {{type: function, function: {{name, arguments}}}}")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _decoded(arguments or "{}", f"{name}.function.arguments")
    if not isinstance(arguments, dict):
        raise UnusableRowError(f"{name}.function.arguments is {kind_of(arguments)}, not an object")
    identity = {"id": call["id"]} if call.get("id") else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _is_name(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(value, str) and bool(value.strip())


def _decoded(text: str, name: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableRowError(f"{name} is not JSON: {error}") from error
