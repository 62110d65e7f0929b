"""Tools: what is offered, whether one must be called, and OpenAI's first way to say so.

``functions`` and ``function_call`` are read as tools, and the answer is turned back, so that an
engine has to know only one of both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.engines.body.formats import check_schema


@dataclass(frozen=True, slots=True)
class ToolWish:
    """What a body says about tools.

    Attributes:
        tools: Those that are offered and may be called; none if the choice is none.
        is_required: Whether the answer must be a call.
        is_named: Whether it must call the one tool that is left in ``tools``.
    """

    tools: tuple[dict[str, Any], ...] = ()
    is_required: bool = False
    is_named: bool = False


def read_tools(body: dict[str, Any]) -> ToolWish:
    """The tools of a body.

    Args:
        body: Without nulls and legacy functions (``functions_as_tools``).

    Raises:
        InvalidRequest: A tool or the choice is malformed, or names what is not offered.

    Example:
        >>> tool = {"type": "function", "function": {"name": "f"}}
        >>> read_tools({"tools": [tool], "tool_choice": "required"}).is_required
        True
        >>> read_tools({"tools": [tool], "tool_choice": "none"}).tools
        ()
    """
    tools, choice = body.get("tools", []), body.get("tool_choice", "auto")
    if not isinstance(tools, list):
        raise InvalidRequest("tools must be a list")
    names = [_name(index, tool) for index, tool in enumerate(tools)]
    if isinstance(choice, dict):
        wanted = (choice.get("function") or {}).get("name") or choice.get("name")
        if wanted not in names:
            raise InvalidRequest(f"tool_choice names {wanted!r}, which is not one of the tools")
        return ToolWish((tools[names.index(wanted)],), is_required=True, is_named=True)
    if choice not in ("none", "auto", "required"):
        raise InvalidRequest(
            f"tool_choice must be none, auto, required or name a tool, not {choice!r}"
        )
    if choice == "required" and not tools:
        raise InvalidRequest("tool_choice: required needs tools")
    return ToolWish(() if choice == "none" else tuple(tools), is_required=choice == "required")


def _name(index: int, tool: Any) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"tools[{index}] must be a function with a name")
    parameters = function.get("parameters")
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise InvalidRequest(f"tools[{index}].function.parameters must be a JSON schema")
        check_schema(f"tools[{index}].function.parameters", parameters)
    return str(function["name"])


def functions_as_tools(body: dict[str, Any]) -> dict[str, Any]:
    """The body with tools in the place of legacy functions, in its messages too.

    Example:
        >>> functions_as_tools({"functions": [{"name": "f"}], "function_call": {"name": "f"}})
        ... # doctest: +NORMALIZE_WHITESPACE
        {'tools': [{'type': 'function', 'function': {'name': 'f'}}],
         'tool_choice': {'type': 'function', 'function': {'name': 'f'}}}
    """
    asked = {k: v for k, v in body.items() if k not in ("functions", "function_call")}
    if "functions" in body:
        if not isinstance(body["functions"], list):
            raise InvalidRequest("functions must be a list")
        asked["tools"] = [{"type": "function", "function": one} for one in body["functions"]]
    if "function_call" in body:
        choice = body["function_call"]
        is_named = isinstance(choice, dict)
        asked["tool_choice"] = {"type": "function", "function": choice} if is_named else choice
    if isinstance(body.get("messages"), list):
        asked["messages"] = [_as_tool_turn(message) for message in body["messages"]]
    return asked


def _as_tool_turn(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    if message.get("role") == "function":
        return {**message, "role": "tool", "tool_call_id": _id(message.get("name"))}
    call = message.get("function_call")
    if not isinstance(call, dict):
        return message
    turn = {name: value for name, value in message.items() if name != "function_call"}
    return turn | {
        "tool_calls": [{"id": _id(call.get("name")), "type": "function", "function": call}]
    }


def _id(name: Any) -> str:
    """What ties a call to its result where the client knows no ids."""
    return f"function-{name}"


def calls_as_functions(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice of an answer or a chunk, for a client that offered legacy functions.

    Example:
        >>> call = {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}
        >>> calls_as_functions({"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"})
        ... # doctest: +NORMALIZE_WHITESPACE
        {'delta': {'function_call': {'name': 'f', 'arguments': '{}'}},
         'finish_reason': 'function_call'}
    """
    choice = dict(choice)
    for part in ("message", "delta"):
        if calls := (choice.get(part) or {}).get("tool_calls"):
            told = {name: value for name, value in choice[part].items() if name != "tool_calls"}
            # That way has room for one call only; the first is the one the model meant first.
            if calls[0].get("index", 0) == 0:
                told["function_call"] = calls[0]["function"]
            choice[part] = told
    if choice.get("finish_reason") == "tool_calls":
        choice["finish_reason"] = "function_call"
    return choice
