"""What a loaded model can do, found out by asking it: the questions and how answers are judged.

A probe is a generator: it yields questions, gets answers, and returns what they show. Whoever
runs it does the asking (``actors/controller/swaps/probing.py``), so nothing here waits or knows a
network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hotswap_ray.core.answers.thinking import OPEN, without_thinking
from hotswap_ray.core.fit.own_questions import endpoints, own_body
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec

FEW_TOKENS = 8
MANY_TOKENS = 64
"""Longest answer with a tool call or JSON; a model that says more is cut off, not judged."""
HELD = 0.95
"""Share of a long prompt that must be read; the prompt's length is an estimate."""

PROMPT = "Count on: one two three four five"
TURNS = (
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": PROMPT},
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
MARKERS = re.compile(r"<\|?(im_start|im_end|start_of_turn|end_of_turn|eot_id)\b|\[/?INST\]")
"""Of chat templates; in an answer they show that the wrong one is in use."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What one probe showed.

    Attributes:
        name: Capability.
        supported: Whether the model has it; ``None`` when it could not be measured.
        detail: What was seen, for people.
    """

    name: str
    supported: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One request to the model.

    Attributes:
        endpoint: Where to.
        body: OpenAI body. A streamed answer comes back as its chunks: ``{"chunks": [...]}``.
        decides: Whether a refusal shows that the capability is missing.
        streamed: Whether to stream.
        room: Whether a model that thinks gets tokens for it; not where only counts matter.
    """

    endpoint: Endpoint
    body: dict[str, Any]
    decides: bool = True
    streamed: bool = False
    room: bool = True


Answer = Mapping[str, Any]
ProbeAnswer = tuple[bool | None, str]
Script = Generator[Question, Answer, ProbeAnswer]


def script(
    name: str, spec: ModelSpec, context_tokens: int, endpoint: Endpoint | None = None
) -> Script:
    """A probe, ready to run.

    Args:
        name: One of ``PROBES``.
        spec: The model, which says how our questions are to be put.
        context_tokens: Length to try, for the probe ``context``.
        endpoint: Where a probe asks that is about no endpoint; ``None`` for the first that the
            model declares.
    """
    return _as_own(spec, PROBES[name](endpoint or endpoints(spec)[0], context_tokens))


def _as_own(spec: ModelSpec, questions: Script) -> Script:
    """The same questions with the model's own parameters."""
    question = next(questions)
    while True:
        body = own_body(spec, question.body, room=question.room)
        answer = yield replace(question, body=body)
        try:
            question = questions.send(answer)
        except StopIteration as ended:
            found: ProbeAnswer = ended.value
            return found


def _body(endpoint: Endpoint, prompt: str | None = None, **options: Any) -> dict[str, Any]:
    body = {"max_tokens": FEW_TOKENS, "temperature": 0, **options}
    if endpoint == "completions":
        return {"prompt": prompt or PROMPT, **body}
    turns = [{"role": "user", "content": prompt}] if prompt else list(TURNS)
    return {"messages": turns, **body}


def _chat(endpoint: Endpoint, context_tokens: int) -> Script:
    """A conversation is answered, and the chat template does not show in the answer."""
    answer = yield Question("chat/completions", _body("chat/completions"))
    text = _text(answer)
    if marker := MARKERS.search(text):
        return False, f"the chat template does not fit: {marker[0]!r} is part of the answer"
    if not text and not _thoughts(answer):
        return None, "the answer is empty"
    return True, "answers a conversation"


def _completions(endpoint: Endpoint, context_tokens: int) -> Script:
    answer = yield Question("completions", _body("completions"))
    return (True, "continues a prompt") if _text(answer) else (None, "the answer is empty")


def _stop(endpoint: Endpoint, context_tokens: int) -> Script:
    """The model's own answer gives the stop sequence, so any model can be asked."""
    full_text = _text((yield Question(endpoint, _body(endpoint), decides=False)))
    words = full_text.split()
    if len(words) < 2 or words[0] == words[-1]:
        return None, "the answer is too short to stop in"
    stop = words[-1]
    answer = yield Question(endpoint, _body(endpoint, stop=[stop]))
    text = _text(answer)
    if stop in text:
        return False, "a stop sequence is ignored"
    if full_text.startswith(text):
        return True, "ends before a stop sequence"
    return None, "two answers to one prompt at temperature 0 differ"


def _stream_usage(endpoint: Endpoint, context_tokens: int) -> Script:
    body = _body(endpoint, stream=True, stream_options={"include_usage": True})
    answer = yield Question(endpoint, body, streamed=True, room=False)
    usage: Mapping[str, Any] = next((c["usage"] for c in answer["chunks"] if c.get("usage")), {})
    tokens_in, tokens_out = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    if tokens_in > 0 and tokens_out > 0:
        return True, f"counted {tokens_in} tokens in, {tokens_out} out"
    return False, "streams do not say how many tokens they took"


def _tools(endpoint: Endpoint, context_tokens: int) -> Script:
    """Asks with ``auto`` first, as clients do; a weak model may call only if it is required."""
    prompt = "What is the weather in Paris now? Use the tool."
    detail = ""
    for choice in ("auto", "required"):
        body = _body("chat/completions", prompt, tools=[WEATHER], tool_choice=choice)
        body["max_tokens"] = MANY_TOKENS
        answer = yield Question("chat/completions", body)
        if calls := _message(answer).get("tool_calls"):
            function = calls[0].get("function") or {}
            arguments = _json(function.get("arguments"))
            if function.get("name") != "get_weather" or "city" not in arguments:
                return False, f"calls a tool wrongly: {str(function)[:80]}"
            condition = "" if choice == "auto" else ", but only with tool_choice: required"
            return True, f"calls a tool{condition}"
        if _thoughts(answer) and _finish(answer) == "length":
            return None, "still thought when its tokens were used up (thinking_tokens)"
        detail = detail or f"answers with text: {_text(answer)[:40]!r}"
    return False, detail


def _json_mode(endpoint: Endpoint, context_tokens: int) -> Script:
    body = _body("chat/completions", "Give the capital of France as JSON.")
    body |= {"max_tokens": MANY_TOKENS, "response_format": {"type": "json_object"}}
    answer = yield Question("chat/completions", body)
    text = _text(answer).strip()
    if _json(text):
        return True, "answers with a JSON object"
    if _finish(answer) == "length" and (text.startswith("{") or (not text and _thoughts(answer))):
        return None, "not at an end when its tokens were used up"
    return False, f"answers with text: {text[:40]!r}"


def _reasoning(endpoint: Endpoint, context_tokens: int) -> Script:
    answer = yield Question("chat/completions", _body("chat/completions"))
    if _apart(answer):
        return True, "thinks apart from the answer"
    if _said(answer).lstrip().startswith(OPEN):
        return False, "thinks within the answer: <think>"
    return False, "does not think"


def _context(endpoint: Endpoint, context_tokens: int) -> Script:
    """A prompt of nearly that length must be counted whole: servers truncate prompts silently."""
    few, many = 1, 65
    counts = []
    for words in (few, many):
        answer = yield Question(
            endpoint, _body(endpoint, " a" * words, max_tokens=1), decides=False, room=False
        )
        counts.append(_tokens_in(answer))
    if min(counts) <= 0 or counts[1] <= counts[0]:
        return None, "prompt tokens are not counted"
    tokens_per_word = (counts[1] - counts[0]) / (many - few)
    target = context_tokens - FEW_TOKENS
    words = max(few, int((target - counts[0]) / tokens_per_word))
    answer = yield Question(endpoint, _body(endpoint, " a" * words, max_tokens=1), room=False)
    tokens_in = _tokens_in(answer)
    detail = f"reads {tokens_in} tokens"
    return (True, detail) if tokens_in >= HELD * target else (False, f"{detail} of {target}")


PROBES: dict[str, Callable[[Endpoint, int], Script]] = {
    "chat": _chat,
    "completions": _completions,
    "stop": _stop,
    "stream_usage": _stream_usage,
    "tools": _tools,
    "json": _json_mode,
    "reasoning": _reasoning,
    "context": _context,
}
"""Every probe by the capability that it shows."""


def _choice(answer: Answer) -> Mapping[str, Any]:
    choices = answer.get("choices") or [{}]
    choice: Mapping[str, Any] = choices[0]
    return choice


def _message(answer: Answer) -> Mapping[str, Any]:
    message: Mapping[str, Any] = _choice(answer).get("message") or {}
    return message


def _said(answer: Answer) -> str:
    return str(_choice(answer).get("text") or _message(answer).get("content") or "")


def _text(answer: Answer) -> str:
    """What was said but not thought."""
    return without_thinking(_said(answer))


def _apart(answer: Answer) -> str:
    message = _message(answer)
    return str(message.get("reasoning_content") or message.get("reasoning") or "")


def _thoughts(answer: Answer) -> str:
    """What was thought, wherever it stands."""
    said = _said(answer)
    return _apart(answer) or (said if without_thinking(said) != said else "")


def _finish(answer: Answer) -> str | None:
    finish: str | None = _choice(answer).get("finish_reason")
    return finish


def _tokens_in(answer: Answer) -> int:
    return int((answer.get("usage") or {}).get("prompt_tokens") or 0)


def _json(text: object) -> dict[str, Any]:
    """A JSON object; empty where it is none."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
