"""Which conversations a rollout's candidate answers, as one ingress replica knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hotswap_ray.actors.call import Call
from hotswap_ray.core.routes import Choice, RouteTable
from hotswap_ray.core.split import Conversations, Split
from hotswap_ray.core.target import Target
from hotswap_ray.core.types import Decision


class RolloutSplit:
    """Divides the requests of tasks that have a split.

    Args:
        has_room: Whether a target can take one more request; without room the active model
            answers, since a rollout must not refuse a client.
    """

    def __init__(self, has_room: Callable[[Target], bool]) -> None:
        self._has_room = has_room
        self._began = Conversations()

    def pick(self, call: Call, choice: Choice, split: Split) -> Choice | None:
        """Where a request goes whose task is being rolled out.

        Args:
            call: The request.
            choice: The active model.
            split: Of the task's route.

        Returns:
            ``None`` when the request has to wait until a step is made.
        """
        if call.conversation is None and call.body.get("tools"):
            return choice  # one of a loop of tool calls that nothing ties together
        mark = split.mark(call.conversation or call.request_id)
        side = split.side(mark, self._began.knows(split.salt, mark))
        if side == "wait":
            return None
        if side == "candidate" and self._has_room(split.candidate):
            return replace(
                choice,
                target=split.candidate,
                decision=Decision.CANARY,
                fallback=choice.target,
            )
        if side == "active" and call.conversation is not None:
            self._began.add(split.salt, mark)
        return choice

    def moving(self, table: RouteTable) -> dict[str, list[int]]:
        """Conversations that would move, by task, where a step is being made."""
        splits = {task: route.split for task, route in table.routes.items() if route.split}
        self._began.keep(split.salt for split in splits.values())
        return {task: self._began.moving(split) for task, split in splits.items() if split.opening}
