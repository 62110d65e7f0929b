"""Which model a request goes to, and which one when that gave no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from hotswap_ray.actors.ingress.attempt import Unanswered
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.division import Division
from hotswap_ray.actors.ingress.explorer import Explorer
from hotswap_ray.actors.ingress.loops import Loops
from hotswap_ray.actors.ingress.suspects import Suspects
from hotswap_ray.actors.ingress.waiting_room import WaitingRoom
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import (
    ContextExceeded,
    InvalidRequest,
    NotSupported,
    Overloaded,
    RequestError,
    Saturated,
)
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import NO_TASK, RoutingDecision
from hotswap_ray.core.routing.conversation import ConversationKeys, open_calls
from hotswap_ray.core.routing.needs import Needs, needs_of
from hotswap_ray.core.routing.table import AUTO, Assignment, Route, RouteTable, choose, choose_task
from hotswap_ray.core.routing.target import Target
from hotswap_ray.core.spec.task import Requirements, TaskSpec

ON_TRIAL = frozenset({RoutingDecision.CANARY, RoutingDecision.AB_TEST, RoutingDecision.EXPLORE})
"""Decisions of requests whose model is compared with the active one."""
SHORT_S = 1.0
"""A server that has room again within this is waited for; one that needs longer is left."""


class Chooser:
    """Chooses on the current route table. Lives on one event loop.

    Args:
        limits: Longest waits.
        suspects: Models that do not answer.
        has_room: Whether a target can take one more request.
        division: Divides conversations in rollouts.
        explorer: Tries candidates.
        loops: Who holds which tool loop.
        news: Where requests wait for another table.
        tasks: Tasks by id, for their requirements.

    Attributes:
        table: The route table; the router sets it.
    """

    def __init__(
        self,
        limits: ServerConfig,
        suspects: Suspects,
        has_room: Callable[[Target], bool],
        division: Division,
        explorer: Explorer,
        loops: Loops,
        news: WaitingRoom,
        tasks: Mapping[str, TaskSpec],
    ) -> None:
        self.table = RouteTable()
        self._limits = limits
        self._suspects = suspects
        self._has_room = has_room
        self._division = division
        self._explorer = explorer
        self._loops = loops
        self._news = news
        self._requirements = {task: spec.requirements for task, spec in tasks.items()}
        self._keys = ConversationKeys()

    async def first(self, call: Call) -> Assignment:
        """Read the table once; while its route is held, wait for another one, bounded.

        Nothing is awaited after the table was read for the last time, so the caller counts
        the request before the controller can hear that the target is idle.

        Raises:
            NotFound: Unknown task or model.
            InvalidRequest: No model that may answer has what the request asks for.
            EngineUnavailable: The wait was too long.
        """
        arrived = asyncio.get_running_loop().time()
        needs = needs_of(call.endpoint, call.body)
        calls = open_calls(call.body)
        is_auto = call.model == AUTO or call.model.startswith(f"{AUTO}:")
        key: str | None = None
        has_key = False
        while True:
            table = self.table
            task = choose_task(table, call.model, call.task_header, call.task_metadata)
            route = table.routes[task]
            if not has_key and (route.split or route.trial or call.body.get("functions")):
                key, has_key = self._keys.pick(task, call.names, call.body), True
            if calls and is_auto and (kept := self._of_loop(call, task, route, calls, key)):
                return kept
            if route.held and is_auto:
                until = arrived + self._limits.hold_timeout_s
                await self._news.wait(until, f"task {task!r} is still swapping", 5.0)
                continue
            assignment = self._stated(call, table, task, route)
            if not has_key and assignment.target.has_affinity:
                key, has_key = self._keys.pick(task, call.names, call.body), True
            if not needs.fits(assignment.target):
                assignment = self._fitting(assignment, route, needs)
            if key is not None:
                assignment = replace(assignment, conversation=key)
            is_active = assignment.decision is RoutingDecision.ACTIVE
            if route.split is not None and is_active:
                drawn = self._division.pick(call, assignment, route.split, needs)
                if drawn is None:
                    until = arrived + self._limits.hold_timeout_s
                    await self._news.wait(until, f"a rollout of task {task!r} goes on", 1.0)
                    continue
                assignment = drawn
            if assignment.target.app not in self._suspects:
                if route.split is not None or (key is None and call.offers_tools):
                    return assignment
                return self._explorer.pick(
                    assignment, route, lambda t: self._has_room(t) and needs.fits(t)
                )
            fallback = assignment.fallback
            if fallback is not None and fallback.app not in self._suspects and needs.fits(fallback):
                return _sent(assignment, fallback)
            until = arrived + self._limits.first_byte_timeout_s
            await self._news.wait(until, f"model {assignment.target.model!r} does not answer", 2.0)

    async def second(
        self, call: Call, first: Assignment, failure: Unanswered, deadline: float
    ) -> Assignment:
        """Where a request goes once more whose model gave no content.

        Only targets of the current table: any other may be deleted at any moment.

        Raises:
            HotswapError: The model's error: nobody else may be asked, or is there.
        """
        error = failure.error
        pinned = first.decision is RoutingDecision.PINNED and not call.prefer
        route = Route("") if pinned else self.table.routes.get(first.task)
        now = asyncio.get_running_loop().time
        if route is None or now() >= deadline:
            raise error
        needs = needs_of(call.endpoint, call.body)
        if isinstance(error, Overloaded | Saturated):
            wait_s = error.retry_after_s
            if failure.sent and wait_s is not None and wait_s <= min(SHORT_S, deadline - now()):
                await asyncio.sleep(wait_s)
                if first.target in self.table.targets().values():
                    return first
            for target in _named(route):
                if self._may_take(target, first, needs) and self._has_room(target):
                    return _sent(first, target)
            raise error
        if pinned:
            raise error
        if isinstance(error, RequestError | NotSupported):
            judge = route.active if first.decision in ON_TRIAL else None
            if first.decision is RoutingDecision.ACTIVE:
                judge = route.proven
                if first.target not in (route.active, route.proven):
                    judge = route.active  # it was rolled back while it was asked
            if judge is not None and self._may_take(judge, first, needs):
                return _sent(first, judge)
            if isinstance(error, ContextExceeded):
                for target in self._others(first.task, route, needs):
                    longest = target.context_tokens or float("inf")  # who knows
                    if longest > first.target.context_tokens and self._may_take(
                        target, first, needs
                    ):
                        return _sent(first, target, RoutingDecision.ESCALATED)
            raise error
        for other in (route.active, route.fallback):
            if other is not None and self._may_take(other, first, needs):
                return _sent(first, other)
        raise error

    def _of_loop(
        self, call: Call, task: str, route: Route, calls: list[object], key: str | None
    ) -> Assignment | None:
        """The model that made the calls whose results a request brings; nothing moves it."""
        target = self._loops.holder(calls, key)
        if target is None or target.app in self._suspects or not self._has_room(target):
            return None
        decision, fallback = RoutingDecision.CONVERSATION, route.active
        if target == route.active:
            decision, fallback = RoutingDecision.ACTIVE, route.fallback
        elif route.split is not None and target in [share.target for share in route.split.shares]:
            decision = route.split.decision
        elif route.trial is not None and target in route.trial.candidates:
            decision = RoutingDecision.EXPLORE
        return Assignment(task, target, decision, fallback, key)

    def _stated(self, call: Call, table: RouteTable, task: str, route: Route) -> Assignment:
        """The model that the client or the route names."""
        preferred = table.models.get(call.prefer) if call.prefer else None
        if preferred is not None:
            return Assignment(task, preferred, RoutingDecision.PINNED, route.fallback)
        assignment = choose(table, call.model, task)
        is_stated = call.task_header or call.task_metadata
        if assignment.decision is RoutingDecision.PINNED and not is_stated:
            return replace(assignment, task=NO_TASK)
        return assignment

    def _fitting(self, assignment: Assignment, route: Route, needs: Needs) -> Assignment:
        """Another model where the one that should answer cannot take the request.

        Raises:
            InvalidRequest: Nobody can, or the client wants this model.
        """
        target = assignment.target
        if assignment.decision is not RoutingDecision.PINNED:
            others: Iterable[Target] = self._others(assignment.task, route, needs)
            if needs.may_go_to(target):  # only for a wish, which the task has to name somebody for
                others = [other for other in _named(route) if needs.fits(other)]
            for other in others:
                if other != target and other.app not in self._suspects:
                    return _sent(assignment, other, RoutingDecision.ESCALATED)
        if missing := needs.lacks(target):
            raise InvalidRequest(
                f"model {target.model!r} does not do {', '.join(missing)} (it does: "
                f"{', '.join(target.does) or 'nothing that is known'}); choose a task whose model "
                "does, or leave it out"
            )
        # A context that is too short: the engine refuses with both numbers, which it knows.
        left_out = tuple(name for name in needs.wishes if name in target.lacks)
        return replace(assignment, left_out=left_out)

    def _others(self, task: str, route: Route, needs: Needs) -> Iterator[Target]:
        """Models that can take a request of a task: those the task names, then any that may."""
        named = _named(route)
        yield from (target for target in named if needs.fits(target))
        limits = self._requirements.get(task, Requirements())
        required = canonicals(limits.capabilities)
        loaded = [target for target in self.table.models.values() if target is not None]
        for target in sorted(loaded, key=lambda target: target.context_tokens):
            is_allowed = required <= set(target.does)
            is_allowed = is_allowed and target.context_tokens >= limits.context_tokens
            if target not in named and is_allowed and needs.is_met_by(target):
                yield target

    def _may_take(self, target: Target, first: Assignment, needs: Needs) -> bool:
        """Whether a model that is not the first one can take its request."""
        if target.app == first.target.app or target.app in self._suspects:
            return False
        return needs.fits(target)


def _named(route: Route) -> list[Target]:
    """Models that a task names, the best first: its own, its fallback, and those it tries."""
    shares = [share.target for share in route.split.shares if not share.out] if route.split else []
    tried = [*shares, *(route.trial.candidates if route.trial else ())]
    return [target for target in (route.active, route.fallback, *tried) if target is not None]


def _sent(
    first: Assignment, target: Target, decision: RoutingDecision = RoutingDecision.FALLBACK
) -> Assignment:
    """The assignment of a request that goes elsewhere; nobody else is asked after that."""
    return replace(first, target=target, decision=decision, fallback=None, left_out=())
