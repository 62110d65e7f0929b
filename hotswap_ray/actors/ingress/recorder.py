"""Makes an outcome of each request, and has its answer judged: by checks, and by its form."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.core.answers.form import asks_for_json
from hotswap_ray.core.answers.judge_messages import Job, Judgement, Judging
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.spec.golden import Check

MOST_WAITING = 2_000
MOST_BYTES = 256 * 1024
BATCH = 32


class Recorder:
    """Outcomes of one ingress replica, until they are taken.

    Args:
        checks: Checks per task; a task without any is judged by feedback only.

    Attributes:
        outcomes: Complete ones, in the order in which they ended.
        unjudged: Answers that were too many or too long to be judged.
    """

    def __init__(self, checks: Mapping[str, tuple[Check, ...]]) -> None:
        self.outcomes: list[Outcome] = []
        self.unjudged = 0
        self._checks = {task: stated for task, stated in checks.items() if stated}
        self._waiting: deque[tuple[Outcome, Job]] = deque()

    def is_judged(self, task: str, request: Mapping[str, Any]) -> bool:
        """Whether the answer to a request is judged, so that it has to be kept."""
        return task in self._checks or asks_for_json(request)

    def add(self, call: Call, outcome: Outcome, answer: bytes | None, streamed: bool) -> None:
        """Take in the outcome of a request.

        Args:
            call: The request.
            outcome: Without a quality.
            answer: Its bytes, a JSON body or server-sent events; ``None`` to judge nothing.
            streamed: Which of these it is.
        """
        checks = self._checks.get(outcome.task, ())
        if answer is None or not outcome.success or not self.is_judged(outcome.task, call.body):
            self.outcomes.append(outcome)
        elif len(self._waiting) >= MOST_WAITING or len(answer) > MOST_BYTES:
            self.unjudged += 1
            self.outcomes.append(outcome)
        else:
            self._waiting.append((outcome, Job(checks, call.endpoint, call.body, answer, streamed)))

    def take(self) -> list[Outcome]:
        """The outcomes so far, which are the caller's from now on."""
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    async def judge_pending(self, judge: Judging) -> int:
        """Have answers judged that wait for it; returns how many."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        if not batch:
            return 0
        judgements: Sequence[Judgement] = ()
        try:
            judgements = await judge([job for _, job in batch])
        finally:  # an outcome is kept also when it could not be judged
            judgements = judgements or [Judgement(None)] * len(batch)
            for (outcome, _), judgement in zip(batch, judgements, strict=True):
                self.outcomes.append(
                    replace(
                        outcome,
                        quality=judgement.quality,
                        format_ok=judgement.format_ok,
                        wrong_form=judgement.wrong_form,
                    )
                )
        return len(batch)
