"""Which conversations the candidates of a canary or A/B test answer, in one replica."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.core.routing.needs import NOTHING, Needs
from hotswap_ray.core.routing.split import ACTIVE, Conversations, Split
from hotswap_ray.core.routing.table import Assignment, RouteTable
from hotswap_ray.core.routing.target import Target


class Division:
    """Divides the requests of tasks that have a split.

    Args:
        has_room: Whether a target can take one more request; without room the active model
            answers, since dividing must not refuse a client.
    """

    def __init__(self, has_room: Callable[[Target], bool]) -> None:
        self._has_room = has_room
        self._began = Conversations()

    def pick(
        self, call: Call, assignment: Assignment, split: Split, needs: Needs = NOTHING
    ) -> Assignment | None:
        """Where a request goes whose task is being rolled out.

        Args:
            call: The request.
            assignment: The active model, and the key of the request's conversation.
            split: Of the task's route.
            needs: What a candidate must have; without it the active model answers.

        Returns:
            ``None`` when the request has to wait until a step is made.
        """
        key = assignment.conversation
        if key is None and call.offers_tools:
            return assignment  # a loop of tool calls without a key has to stay on one model
        mark = split.mark(key or call.request_id)
        arm = split.arm(mark, self._began.began(split.salt, mark))
        if arm is None:
            return None
        target = None if arm == ACTIVE else split.shares[arm - 1].target
        if target is not None and not (self._has_room(target) and needs.fits(target)):
            return assignment
        if key is not None:
            self._began.add(split.salt, mark, arm)
        if target is None:
            return assignment
        return replace(
            assignment, target=target, decision=split.decision, fallback=assignment.target
        )

    def moving(self, table: RouteTable) -> dict[str, dict[int, int]]:
        """Conversations that a step would move, and the arm of each, by task."""
        splits = {task: route.split for task, route in table.routes.items() if route.split}
        self._began.keep(split.salt for split in splits.values())
        return {task: self._began.moving(split) for task, split in splits.items() if split.opening}
