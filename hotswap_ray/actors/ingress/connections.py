"""The connections of one ingress replica: one a generation, made once, warmed before use."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping

from hotswap_ray.actors.cluster.connection import Connect, Connection
from hotswap_ray.core.routing.target import Target

REACH_S = 5.0


class Connections:
    """Connections by application.

    Args:
        connect: Makes one.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connections: dict[str, Connection] = {}
        self._reached: set[str] = set()

    def to(self, target: Target) -> Connection:
        """The connection to a target, reached before or not."""
        if target.app not in self._connections:
            self._connections[target.app] = self._connect(target)
        return self._connections[target.app]

    def reached(self, apps: Iterable[str]) -> list[str]:
        """Those of ``apps`` that have answered."""
        return [app for app in apps if app in self._reached]

    async def reach(self, targets: Mapping[str, Target]) -> None:
        """Ping the targets that have not answered yet; silent ones are left for the next time."""
        silent = [target for app, target in targets.items() if app not in self._reached]
        answers = await asyncio.gather(*(self._ping(t) for t in silent), return_exceptions=True)
        for target, answer in zip(silent, answers, strict=True):
            if not isinstance(answer, BaseException):
                self._reached.add(target.app)

    async def _ping(self, target: Target) -> None:
        async with asyncio.timeout(REACH_S):
            await self.to(target).ping()

    def keep(self, apps: Collection[str]) -> None:
        """Forget all but these."""
        for app in [app for app in self._connections if app not in apps]:
            del self._connections[app]
            self._reached.discard(app)
