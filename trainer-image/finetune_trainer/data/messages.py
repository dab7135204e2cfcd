"""What one turn of a conversation may say: the checks of the OpenAI fine-tuning format, each with place and remedy.

Must not know any chat template; what a template refuses is found out when it renders.
"""

from difflib import get_close_matches
from typing import Any

from finetune_trainer.data.records import UnusableRowError, kind_of, text_of
from finetune_trainer.data.tools import parsed_calls

Message = dict[str, Any]

ROLES = ("system", "user", "assistant")
TOOL_ROLE = "tool"
KEYS = ("role", "content", "name", "weight", "reasoning_content")
"""Keys of a turn; `weight: 0` takes the loss off an assistant's turn."""
TOOL_KEYS = ("tool_calls", "tool_call_id")


def checked_turns(value: Any, name: str, *, tools: bool) -> tuple[Message, ...]:  # noqa: ANN401 - any JSON value
    """The turns in `value`, the column `name`, without keys that are null. Raises UnusableRowError with the place.

    With `tools`, turns may call functions and carry their results; arguments become objects, whatever they came as.
    """
    if not isinstance(value, list):
        raise UnusableRowError(f"{name} is {kind_of(value)}, not a list of turns")
    if not value:
        raise UnusableRowError(f"{name} is empty")
    return tuple(_turn(turn, f"{name}[{i}]", tools=tools) for i, turn in enumerate(value))


def silent_turns(messages: tuple[Message, ...]) -> frozenset[int]:
    """Indices of the turns of weight 0, which carry no loss."""
    return frozenset(i for i, message in enumerate(messages) if message.get("weight") == 0)


def _turn(turn: Any, name: str, *, tools: bool) -> Message:  # noqa: ANN401 - any JSON value
    if not isinstance(turn, dict):
        raise UnusableRowError(f"{name} is {kind_of(turn)}, not an object with role and content")
    said = {key: value for key, value in turn.items() if value is not None}
    _check_keys(said, name, tools=tools)
    role = _role(said, name, tools=tools)
    message: Message = {"role": role, "content": _content(said, name, role)}
    for key in ("name", "reasoning_content", "tool_call_id"):
        if key in said:
            message[key] = text_of(said[key], f"{name}.{key}")
    if "weight" in said:
        message["weight"] = _weight(said["weight"], name, role)
    if said.get("tool_calls"):
        if role != "assistant":
            raise UnusableRowError(f"{name}.tool_calls stands in a {role} turn; only the assistant calls tools")
        message["tool_calls"] = parsed_calls(said["tool_calls"], f"{name}.tool_calls")
    return message


def _check_keys(said: dict[str, Any], name: str, *, tools: bool) -> None:
    if said.get("function_call") or said.get("role") == "function":
        raise UnusableRowError(f"{name} has a function_call, the old form of tool_calls; rewrite it as tool_calls")
    if not tools:
        tool = next((key for key in TOOL_KEYS if said.get(key)), None)
        if tool or said.get("role") == TOOL_ROLE:
            raise UnusableRowError(f"{name} has {tool or 'a tool turn'}: set dataset.tools: true to render tools")
    known = (*KEYS, *TOOL_KEYS, "function_call")
    unknown = next((key for key in said if key not in known), None)
    if unknown is not None:
        close = get_close_matches(str(unknown), known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UnusableRowError(f"{name} has the unknown key {unknown!r}{hint}; a turn has {', '.join(KEYS[:4])}")


def _role(said: dict[str, Any], name: str, *, tools: bool) -> str:
    roles = (*ROLES, TOOL_ROLE) if tools else ROLES
    if "role" not in said:
        raise UnusableRowError(f"{name}.role is missing, use {_listed(roles)}")
    if said["role"] not in roles:
        raise UnusableRowError(f"{name}.role is {said['role']!r}, use {_listed(roles)}")
    return str(said["role"])


def _listed(roles: tuple[str, ...]) -> str:
    return f"{', '.join(roles[:-1])} or {roles[-1]}"


def _content(said: dict[str, Any], name: str, role: str) -> str:
    """A call may stand without words, and a tool may answer with nothing; everybody else says something."""
    if "content" not in said and not said.get("tool_calls"):
        raise UnusableRowError(f"{name}.content is missing")
    content = said.get("content", "")
    if content == "" and (role == TOOL_ROLE or said.get("tool_calls")):
        return ""
    return text_of(content, f"{name}.content")


def _weight(value: Any, name: str, role: str) -> int:  # noqa: ANN401 - any JSON value
    if role != "assistant":
        raise UnusableRowError(f"{name}.weight stands in a {role} turn; only an assistant's turn has a weight")
    if isinstance(value, bool) or value not in (0, 1):
        raise UnusableRowError(f"{name}.weight is {value!r}; use 0 (no loss) or 1")
    return int(value)
