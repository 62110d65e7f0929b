"""Judging answers of live traffic, in a process of its own.

A check can hang: a regular expression may backtrack for ever without letting another
thread run, a callable may loop. So ``Judge`` is an actor that serves nobody else. A timer
interrupts a check that takes too long, and only that answer goes without a verdict. What
no timer can interrupt (a loop in C, a checker that swallows the interruption) is ended by
the caller: ``judge_link.py`` kills the process, and Ray starts it again. Checks that do so
again and again rest for a while, so that one task's cannot starve the others.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import orjson

from hotswap_ray.core.answers import checkers
from hotswap_ray.core.answers.form import has_form
from hotswap_ray.core.errors import CheckerFailed, NotFound
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.golden import Check
from hotswap_ray.engines import sse
from hotswap_ray.engines.answers import assemble

JUDGE = "judge"
"""Name of the actor."""
STRIKES = 3
"""Times in a row that checks may hang before they rest."""
REST_S = 120.0
"""How long they rest, in seconds; if they hang then, they rest again."""


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
class Judgement:
    """What the checks say of one answer.

    Attributes:
        quality: In [0, 1]; ``None`` when the answer was not judged. Missing is missing.
        error: Why it could not be judged; empty if no check could tell, or all is well.
        format_ok: Whether it has the form that was asked for; ``None`` where none was.
    """

    quality: float | None
    error: str = ""
    format_ok: bool | None = None


Judging = Callable[[Sequence[Job]], Awaitable[list[Judgement]]]
"""Judges answers, one verdict each, in order."""


class Overdue(BaseException):
    """A check ran into its limit; no ``except Exception`` of a checker may catch it."""


class Strikes:
    """Which checks hang again and again, and therefore rest.

    Args:
        clock: Seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._rest_until: dict[str, float] = {}

    def resting(self, job: Job) -> Judgement | None:
        """The verdict on a job whose checks rest; ``None`` if they do not."""
        if not self._rest_until or self._clock() >= self._rest_until.get(_key(job), 0):
            return None
        return Judgement(None, f"rests, for it hung {STRIKES} times: {labels(job)}")

    def note(self, job: Job, *, hung: bool) -> None:
        """Count what became of a job's checks."""
        if not hung:
            if self._counts:
                self._counts.pop(_key(job), None)
            return
        key = _key(job)
        self._counts[key] = self._counts.get(key, 0) + 1
        if self._counts[key] >= STRIKES:
            self._rest_until[key] = self._clock() + REST_S


class Judge:
    """The actor. Its methods are synchronous: only a main thread can be interrupted.

    Args:
        limit_s: Longest that the checks of one answer may take, in seconds.
        strikes: Which checks rest.
    """

    def __init__(self, limit_s: float, strikes: Strikes | None = None) -> None:
        self._limit_s = limit_s
        self._strikes = strikes or Strikes()

    def judge(self, jobs: Sequence[Job]) -> list[Judgement]:
        """Judge answers, each within the limit.

        Args:
            jobs: The answers; none at all asks whether the judge is there.

        Returns:
            One verdict a job, in order. A check that raises or takes too long costs only its
            own answer the verdict.
        """
        return [self._strikes.resting(job) or self._limited(job) for job in jobs]

    def _limited(self, job: Job) -> Judgement:
        # First, for an import is slow and does not survive being interrupted half-way.
        for check in job.checks:
            if check.kind == "callable":
                with suppress(NotFound):  # which is said when the check is made
                    checkers.find_checker(check.value)
        try:
            with _interrupted_after(self._limit_s):
                judgement = judge_one(job)
        except Overdue:
            self._strikes.note(job, hung=True)
            return Judgement(None, f"took longer than {self._limit_s:g} s: {labels(job)}")
        self._strikes.note(job, hung=False)
        return judgement


def judge_one(job: Job) -> Judgement:
    """Judge one answer here and now, however long it takes."""
    quality, form, errors = None, None, []
    try:
        text = answer_text(job.endpoint, job.answer, streamed=job.streamed)
    except CheckerFailed as error:
        return Judgement(None, error.message)
    try:
        quality = checkers.quality_of(job.checks, text, job.request)
    except CheckerFailed as error:
        errors.append(error.message)
    try:
        form = has_form(job.checks, text, job.request)
    except CheckerFailed as error:
        errors.append(error.message)
    return Judgement(quality, errors[0] if errors else "", form)


async def judge_here(jobs: Sequence[Job]) -> list[Judgement]:
    """Judge in this process, without a limit: what a ``JudgeLink`` does, for short checks."""
    return [judge_one(job) for job in jobs]


def labels(job: Job) -> str:
    """The checks of a job in an error message."""
    return ", ".join(checkers.label(check) for check in job.checks) or "response_format"


def _key(job: Job) -> str:
    # With the client's schema: a bad one must not make the task's checks rest for everybody.
    return repr((job.checks, job.request.get("response_format")))


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
    chunks = [orjson.loads(event) for event in sse.read(raw) if event.startswith("{")]
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
