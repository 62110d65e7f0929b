"""What is asked of the judge and what it answers: the messages between it and its callers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hotswap_ray.core.answers import checkers
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.golden import Check

STRIKES = 3
"""Times in a row that the checks of a job may hang before they rest."""
REST_S = 120.0
"""How long they rest, in seconds; if they hang again after it, they rest again."""


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
        failure: Why it could not be judged; empty if no check could tell, or all is well.
        format_ok: Whether it has the form that was asked for; ``None`` where none was.
        wrong_form: What is wrong with its form, for example "not JSON: text before it".
    """

    quality: float | None
    failure: str = ""
    format_ok: bool | None = None
    wrong_form: str = ""

    @property
    def error(self) -> str:
        """What went wrong: with the judging, else with the form of the answer."""
        return self.failure or self.wrong_form


Judging = Callable[[Sequence[Job]], Awaitable[list[Judgement]]]
"""Judges answers, one verdict each, in order."""


class Strikes:
    """Counts which checks hang again and again; these rest for a while.

    Args:
        clock: Seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._rest_until: dict[str, float] = {}

    def resting(self, job: Job) -> Judgement | None:
        """The verdict on a job whose checks rest; ``None`` if they do not."""
        if not self._rest_until or self._clock() >= self._rest_until.get(_key(job), 0):
            return None
        return Judgement(None, f"rests, for it hung {STRIKES} times: {labels(job)}")

    def note(self, job: Job, *, hung: bool) -> None:
        """Count whether the checks of a job hung; a job that did not hang clears its count."""
        if not hung:
            if self._counts:
                self._counts.pop(_key(job), None)
            return
        key = _key(job)
        self._counts[key] = self._counts.get(key, 0) + 1
        if self._counts[key] >= STRIKES:
            self._rest_until[key] = self._clock() + REST_S


def labels(job: Job) -> str:
    """The checks of a job in an error message."""
    return ", ".join(checkers.label(check) for check in job.checks) or "response_format"


def _key(job: Job) -> str:
    # With the client's schema: one client's bad schema must not make the task's checks rest
    return repr((job.checks, job.request.get("response_format")))
