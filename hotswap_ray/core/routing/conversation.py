"""What a conversation is: one key for every rule that keeps a conversation on its model.

A client may name it (a session header, a cache key), name the person (``user``), or nothing; then
the first messages stand for it, since they come again with each turn. A name that many
conversations share names none of them: a service that sends the same ``user`` with every request,
or a first message that most clients send. Such a name is noticed by its share of a task's
traffic, and the next best is used.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

MESSAGES = "messages"
"""Stands for the first messages, in the order of keys."""
ORDER = (
    *("x-session-id", "x-conversation-id", "x-session-affinity", "prompt_cache_key"),
    *("safety_identifier", "user", "previous_response_id", MESSAGES),
)
"""Names of a conversation, the best first; those with a hyphen are headers."""
OF_A_PERSON = frozenset({"safety_identifier", "user"})
TOOL_ROLES = frozenset({"tool", "function"})

LEAST = 10
"""Requests, and conversations of one person, from which on a share says something."""
MOST_OF_A_PERSON = 0.5
MOST_OF_A_BEGINNING = 0.2
WINDOW = 400
"""Requests after which what was counted counts half."""

Key = tuple[str, str]


def names_of(
    order: Sequence[str], header: Callable[[str], str | None], body: Mapping[str, Any]
) -> tuple[Key, ...]:
    """What a request has of the names of a conversation, the best first.

    Args:
        order: As ``ORDER``; the operator may state another one.
        header: The value of a header.
        body: OpenAI request.

    Example:
        >>> names_of(ORDER, {"x-session-id": "s-1"}.get, {"user": "ann", "prompt_cache_key": 5})
        (('x-session-id', 's-1'), ('user', 'ann'), ('messages', ''))
    """
    names = []
    for name in order:
        value = header(name) if "-" in name else body.get(name)
        if name == MESSAGES:
            names.append((name, ""))
        elif isinstance(value, str) and value:
            names.append((name, value))
    return tuple(names)


def first_messages(body: Mapping[str, Any]) -> tuple[str, bool]:
    """A digest of the messages up to the first of a user, and whether an answer followed them.

    Args:
        body: Of a chat request.

    Returns:
        The digest, empty without such messages, and whether this is a later turn.

    Example:
        >>> turn = [{"role": "user", "content": "hi"}]
        >>> later = [*turn, {"role": "assistant", "content": "yes?"}]
        >>> first, again = (first_messages({"messages": said}) for said in (turn, later))
        >>> first[0] == again[0], first[1], again[1]
        (True, False, True)
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        return "", False
    for number, message in enumerate(messages, 1):
        if isinstance(message, dict) and message.get("role") == "user":
            later = any(_role(other) == "assistant" for other in messages[number:])
            return _digest(messages[:number]), later
    return "", False


def with_first_answer(body: Mapping[str, Any]) -> str:
    """A digest of the messages up to the first answer; empty without one."""
    messages = body.get("messages")
    if isinstance(messages, list):
        for number, message in enumerate(messages, 1):
            if _role(message) == "assistant":
                return _digest(messages[:number])
    return ""


def in_tool_loop(body: Mapping[str, Any]) -> bool:
    """Whether a request continues a turn: it brings results of calls, or a call is open.

    Example:
        >>> in_tool_loop({"messages": [{"role": "tool", "content": "17"}]})
        True
        >>> in_tool_loop({"messages": [{"role": "user", "content": "hi"}], "tools": [{}]})
        False
    """
    return bool(open_calls(body)) or _role(_last(body)) in TOOL_ROLES


def open_calls(body: Mapping[str, Any]) -> list[Any]:
    """Ids of the calls that a request continues; ``None`` among them for one without an id.

    The calls of the last answer, if nobody has spoken since: their results may be there or not.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        return []
    for message in reversed(messages):
        role = _role(message)
        if role in TOOL_ROLES:
            continue
        if role != "assistant":
            return []
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            return [call.get("id") if isinstance(call, dict) else None for call in calls]
        return [None] if message.get("function_call") else []
    return []


def _last(body: Mapping[str, Any]) -> Any:
    messages = body.get("messages")
    return messages[-1] if isinstance(messages, list) and messages else None


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _digest(messages: Sequence[Any]) -> str:
    return blake2b(json.dumps(messages).encode(), digest_size=12).hexdigest()


@dataclass(slots=True)
class _Traffic:
    """What one task's requests had for names lately."""

    requests: float = 0.0
    persons: Counter[Key] = field(default_factory=Counter)
    beginnings: Counter[str] = field(default_factory=Counter)
    conversations: defaultdict[Key, set[str]] = field(default_factory=lambda: defaultdict(set))

    def age(self) -> None:
        self.requests /= 2
        self.persons = Counter({name: n // 2 for name, n in self.persons.items() if n > 1})
        self.beginnings = Counter({name: n // 2 for name, n in self.beginnings.items() if n > 1})
        for person in [person for person in self.conversations if person not in self.persons]:
            del self.conversations[person]


class ConversationKeys:
    """Picks the key of each request's conversation, and notices names that name none.

    One a process, on one thread; what it remembers of a task is bounded by ``WINDOW``.
    """

    def __init__(self) -> None:
        self._traffic: defaultdict[str, _Traffic] = defaultdict(_Traffic)

    def pick(self, task: str, names: Sequence[Key], body: Mapping[str, Any]) -> str | None:
        """The key of a request's conversation.

        Args:
            task: Task id.
            names: What the request has of ``ORDER``, with values, the best first.
            body: The request; its first messages are looked at if nothing better is there.

        Returns:
            ``None`` where nothing tells this conversation from others.

        Example:
            >>> keys, chat = ConversationKeys(), {"messages": [{"role": "user", "content": "hi"}]}
            >>> keys.pick("t", [("x-session-id", "s-1"), ("user", "ann")], chat)
            's-1'
            >>> asked = [{"messages": [{"role": "user", "content": f"{n}"}]} for n in range(20)]
            >>> picked = [keys.pick("t", [("user", "svc"), ("messages", "")], b) for b in asked]
            >>> picked[0], picked[-1] == picked[-2]
            ('svc', False)
        """
        traffic = self._traffic[task]
        traffic.requests += 1
        if traffic.requests > WINDOW:
            traffic.age()
        for name in names:
            if name[0] == MESSAGES:
                key = self._of_messages(traffic, body)
                if key is not None:
                    return key
            elif name[0] not in OF_A_PERSON or not self._is_service(traffic, name, body):
                return name[1]
        return None

    def _is_service(self, traffic: _Traffic, name: Key, body: Mapping[str, Any]) -> bool:
        """Whether a person's name is sent with most requests, of many conversations."""
        traffic.persons[name] += 1
        conversations = traffic.conversations[name]
        if len(conversations) < LEAST:
            conversations.add(first_messages(body)[0] or _digest([body.get("prompt")]))
        requests = traffic.persons[name]
        return len(conversations) >= LEAST and requests > MOST_OF_A_PERSON * traffic.requests

    def _of_messages(self, traffic: _Traffic, body: Mapping[str, Any]) -> str | None:
        beginning, later = first_messages(body)
        if not beginning:
            return None
        if not later:
            traffic.beginnings[beginning] += 1
        count = traffic.beginnings[beginning]
        if count < LEAST or count <= MOST_OF_A_BEGINNING * traffic.requests:
            return beginning
        return (with_first_answer(body) or None) if later else None
