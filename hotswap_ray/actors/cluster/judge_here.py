"""Judges an answer in the process that asks: read it, run its checks, look at its form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from hotswap_ray.core.answers import checkers
from hotswap_ray.core.answers.form import Form, form_of
from hotswap_ray.core.answers.judge_messages import Job, Judgement
from hotswap_ray.core.answers.thinking import without_thinking
from hotswap_ray.core.errors import CheckerFailed
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.engines import sse
from hotswap_ray.engines.answers import assemble


def judge_one(job: Job) -> Judgement:
    """Judge one answer here and now, however long it takes."""
    quality, form, errors = None, Form(None), []
    try:
        whole = whole_text(job.endpoint, job.answer, streamed=job.streamed)
    except CheckerFailed as error:
        return Judgement(None, error.message)
    text = without_thinking(whole)
    try:
        quality = checkers.quality_of(job.checks, text, job.request)
    except CheckerFailed as error:
        errors.append(error.message)
    try:
        form = form_of(job.checks, text, job.request, whole)
    except CheckerFailed as error:
        errors.append(error.message)
    return Judgement(quality, errors[0] if errors else "", form.ok, form.why)


async def judge_here(jobs: Sequence[Job]) -> list[Judgement]:
    """Judge in this process, without a limit: what a ``JudgeWatchdog`` does, for short checks."""
    return [judge_one(job) for job in jobs]


def answer_text(endpoint: Endpoint, raw: bytes, *, streamed: bool) -> str:
    r"""The text of an answer, from the bytes that the client got.

    Args:
        endpoint: Which of the two shapes the answer has.
        raw: A JSON body, or the server-sent events of a whole stream.
        streamed: Which of these.

    Returns:
        Text of the first choice, without thinking. Of a message that has none, its refusal,
        else the JSON arguments of its tool call, as an array if there are several.

    Raises:
        CheckerFailed: This is no whole answer.

    Example:
        >>> event = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}\n\n'
        >>> answer_text("chat/completions", event + b"data: [DONE]\n\n", streamed=True)
        'hi'
    """
    return without_thinking(whole_text(endpoint, raw, streamed=streamed))


def whole_text(endpoint: Endpoint, raw: bytes, *, streamed: bool) -> str:
    """As ``answer_text``, with the thinking that a server left in the text."""
    try:
        body = assemble(endpoint, _chunks(raw)) if streamed else orjson.loads(raw)
        choice = min(body["choices"], key=lambda choice: choice.get("index") or 0)
        if endpoint == "completions":
            return str(choice["text"] or "")
        return _message_text(choice["message"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        text = f"the answer cannot be read: {type(error).__name__}: {error}"
        raise CheckerFailed(text[:300]) from error


def _chunks(raw: bytes) -> list[dict[str, Any]]:
    chunks = [orjson.loads(event) for event in sse.read(raw) if event.startswith("{")]
    if broken := next((chunk["error"] for chunk in chunks if "error" in chunk), None):
        raise ValueError(f"the stream broke off: {broken}")
    return [chunk for chunk in chunks if "choices" in chunk]


def _message_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):  # content parts
        content = "".join(part.get("text") or "" for part in content)
    if text := content or message.get("refusal"):
        return str(text)
    calls = [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
    return str(calls[0]) if len(calls) == 1 else f"[{', '.join(calls)}]" if calls else ""
