"""Judging answers of live traffic, in a process of its own.

A check can hang: a regular expression may backtrack for ever without letting another
thread run, a callable may loop. So ``Judge`` is an actor that serves nobody else. A timer
interrupts a check that takes too long, and only that answer goes without a verdict. What
no timer can interrupt (a loop in C, a checker that swallows the interruption) is ended by
the caller: ``judge_link.py`` kills the process, and Ray starts it again.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import orjson

from hotswap_ray.core import checkers
from hotswap_ray.core.errors import CheckerFailed
from hotswap_ray.core.golden import Check
from hotswap_ray.core.types import Endpoint
from hotswap_ray.engines.answers import assemble

JUDGE = "judge"
"""Name of the actor."""


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to judge.

    Attributes:
        checks: Checks of the answer's task.
        endpoint: Which of the two shapes the answer has.
        request: The request body.
        answer: What the client got: a JSON body, or the chunks of a stream joined.
        streamed: Whether it was a stream.
    """

    checks: tuple[Check, ...]
    endpoint: Endpoint
    request: dict[str, Any]
    answer: bytes
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checks say of one answer.

    Attributes:
        quality: In [0, 1]; ``None`` when the answer was not judged. Missing is missing.
        error: Why it could not be judged; empty if no check could tell, or all is well.
    """

    quality: float | None
    error: str = ""


class Overdue(BaseException):
    """A check ran into its limit; no ``except Exception`` of a checker may catch it."""


class Judge:
    """The actor. Its methods are synchronous: only a main thread can be interrupted.

    Args:
        limit_s: Longest that the checks of one answer may take, in seconds.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        """Judge answers, each within the limit.

        Args:
            jobs: The answers; none at all asks whether the judge is there.

        Returns:
            One verdict a job, in order. A check that raises or takes too long costs only its
            own answer the verdict.
        """
        return [self._verdict(job) for job in jobs]

    def _verdict(self, job: Job) -> Verdict:
        try:
            with _interrupted_after(self._limit_s):
                text = answer_text(job.endpoint, job.answer, streamed=job.streamed)
                return Verdict(checkers.judge(job.checks, text, job.request))
        except CheckerFailed as error:
            return Verdict(None, error.message)
        except Overdue:
            return Verdict(None, f"took longer than {self._limit_s:g} s: {labels(job)}")


def labels(job: Job) -> str:
    """The checks of a job in an error message."""
    return ", ".join(checkers.label(check) for check in job.checks)


def answer_text(endpoint: Endpoint, raw: bytes, *, streamed: bool) -> str:
    r"""What a model said, from the bytes that the client got.

    Args:
        endpoint: Which of the two shapes the answer has.
        raw: A JSON body, or the server-sent events of a whole stream.
        streamed: Which of these.

    Returns:
        Text of the first choice. Of a message that has none, its refusal, else the JSON
        arguments of its tool call, as an array if there are several.

    Raises:
        CheckerFailed: This is no whole answer.

    Example:
        >>> event = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}}]}\n\n'
        >>> answer_text("chat/completions", event + b"data: [DONE]\n\n", streamed=True)
        'hi'
    """
    try:
        body = assemble(endpoint, _chunks(raw)) if streamed else orjson.loads(raw)
        choice = min(body["choices"], key=lambda one: one.get("index") or 0)
        if endpoint == "completions":
            return str(choice["text"] or "")
        return _message_text(choice["message"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        text = f"the answer cannot be read: {type(error).__name__}: {error}"
        raise CheckerFailed(text[:300]) from error


def _chunks(raw: bytes) -> list[dict[str, Any]]:
    events = (line.removeprefix(b"data:").strip() for line in raw.split(b"\n"))
    chunks = [orjson.loads(event) for event in events if event.startswith(b"{")]
    if broken := next((chunk["error"] for chunk in chunks if "error" in chunk), None):
        raise ValueError(f"the stream broke off: {broken}")
    return [chunk for chunk in chunks if "choices" in chunk]


def _message_text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):  # content parts
        content = "".join(part.get("text") or "" for part in content)
    if said := content or message.get("refusal"):
        return str(said)
    calls = [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
    return str(calls[0]) if len(calls) == 1 else f"[{', '.join(calls)}]" if calls else ""


@contextmanager
def _interrupted_after(limit_s: float) -> Iterator[None]:
    """Raise ``Overdue`` in this, the main thread after ``limit_s`` seconds, and then again.

    Python's own regular expressions look for signals while they search.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Overdue

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s, limit_s)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
