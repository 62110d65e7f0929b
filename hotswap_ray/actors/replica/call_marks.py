"""Puts this model's mark on the ids of the tool calls that it makes, and takes marks off.

Why ids are marked: ``core/routing/call_ids.py``. Only what changes is copied, since bodies and
answers belong to others.
"""

from __future__ import annotations

from typing import Any

from hotswap_ray.core.routing.call_ids import mark_in, plain, signed


def offers_tools(body: dict[str, Any]) -> bool:
    """Whether the answer to a request may hold tool calls."""
    return bool(body.get("tools"))


def without_marks(body: dict[str, Any]) -> dict[str, Any]:
    """A request as the engine may see it: ids as they were when an engine made them.

    Args:
        body: Of a request; it stays as it is.

    Example:
        >>> without_marks({"messages": [{"role": "tool", "tool_call_id": "c1.h0123abcd"}]})
        {'messages': [{'role': 'tool', 'tool_call_id': 'c1'}]}
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body
    changed = None
    for index, message in enumerate(messages):
        if isinstance(message, dict) and (plain_message := _plain_message(message)) is not message:
            changed = list(messages) if changed is None else changed
            changed[index] = plain_message
    return body if changed is None else {**body, "messages": changed}


def _plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """The message without marks; itself where it has none."""
    if mark_in(message.get("tool_call_id")):
        message = {**message, "tool_call_id": plain(message["tool_call_id"])}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and any(isinstance(c, dict) and mark_in(c.get("id")) for c in calls):
        calls = [{**c, "id": plain(c["id"])} if _has_id(c) else c for c in calls]
        message = {**message, "tool_calls": calls}
    return message


def with_marks(answer: dict[str, Any], mark: str) -> dict[str, Any]:
    """A whole answer, or a chunk of a stream, whose tool calls say who made them.

    Args:
        answer: From the engine; it stays as it is.
        mark: This model's.

    Example:
        >>> chunk = {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c1"}]}}]}
        >>> with_marks(chunk, "0123abcd")["choices"][0]["delta"]["tool_calls"]
        [{'index': 0, 'id': 'c1.h0123abcd'}]
        >>> with_marks({"choices": []}, "0123abcd")
        {'choices': []}
    """
    choices = answer.get("choices")
    if not any(_calls(choice) for choice in choices or ()):
        return answer
    return {**answer, "choices": [_signed_choice(choice, mark) for choice in choices or ()]}


def _signed_choice(choice: dict[str, Any], mark: str) -> dict[str, Any]:
    if not (calls := _calls(choice)):
        return choice
    where = "message" if choice.get("message") else "delta"
    made = [{**call, "id": signed(call["id"], mark)} if _has_id(call) else call for call in calls]
    return {**choice, where: {**choice[where], "tool_calls": made}}


def _calls(choice: dict[str, Any]) -> list[Any]:
    return (choice.get("message") or choice.get("delta") or {}).get("tool_calls") or []


def _has_id(call: Any) -> bool:
    return isinstance(call, dict) and "id" in call
