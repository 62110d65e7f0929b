"""The work of an ingress replica besides requests: follow the table, report, send outcomes.

Nothing here is on the path of a request. With both actors gone it keeps trying, and the
router goes on with the last table.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, wait_fixed

from hotswap_ray.actors.cluster.background import Tasks, forever
from hotswap_ray.actors.cluster.judge_here import judge_here
from hotswap_ray.actors.cluster.log_limit import LogLimit
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config.sections import LearningConfig
from hotswap_ray.core.answers.judge_messages import Judging
from hotswap_ray.core.errors import HotswapError
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.routing.draws import UNREAD
from hotswap_ray.core.routing.table import RouteTable

RETRY_S = 0.2
WATCH_S = 0.5
JUDGE_S = 0.1  # an answer waits no longer than this before it is judged
DRAWS_S = 0.05  # least time between two messages about draws; the first one goes at once
MAX_UNSENT = 100_000
log = logging.getLogger("hotswap.ingress")


class ControlLink:
    """Connects one router with the two actors.

    Args:
        name: Ray actor name of this replica: the controller asks Ray whether it lives.
        router: The data path.
        controller: ``SwapController`` or a proxy of it.
        learning: ``LearningActor`` or a proxy of it.
        config: When a batch of outcomes is sent.
        on_batch: Called once with each batch, for metrics.
        judge: Judges answers.

    Attributes:
        lost_outcomes: Outcomes that were dropped because the learnings took none for too long.
    """

    def __init__(
        self,
        name: str,
        router: Router,
        controller: Any,
        learning: Any,
        config: LearningConfig,
        on_batch: Callable[[list[Outcome]], None] = lambda batch: None,
        judge: Judging = judge_here,
    ) -> None:
        self.lost_outcomes = 0
        self._losses = LogLimit(log)
        self._name = name
        self._router = router
        self._controller = controller
        self._learning = learning
        self._config = config
        self._on_batch = on_batch
        self._judge = judge
        self._connected: list[str] = []
        self._unsent: dict[str, list[Outcome]] = {}
        self._drained = asyncio.Event()
        self._drew = asyncio.Event()
        self._draws_place = UNREAD
        router.explorer.on_draw = self._drew.set
        self._flushing = asyncio.Lock()
        self._tasks = Tasks(log)

    async def start(self) -> None:
        """Get the first table, then follow it in the background.

        Returns only with a table: a replica without one must not become ready.
        """
        waiting = AsyncRetrying(
            retry=retry_if_exception_type(HotswapError),
            wait=wait_fixed(RETRY_S),
            before_sleep=before_sleep_log(log, logging.WARNING),
        )
        table: RouteTable = await waiting(self._controller.listen, self._name, -1)
        self._connected = await self._router.apply(table)
        for step in (
            self._follow,
            self._report_drained,
            self._flush_later,
            self._tell_draws,
            self._hear_draws,
            self._judge_later,
            self._watch,
        ):
            # A replica that no longer follows the table would serve from it for ever.
            self._tasks.spawn(forever(step, step.__name__, log, wait_fixed(RETRY_S)), step.__name__)

    def drained(self) -> None:
        """The router's last request on a draining application has ended."""
        self._drained.set()

    async def _follow(self) -> None:
        # First, because a controller that has restarted does not know this replica.
        await self._acknowledge()
        version = self._router.table.version
        table: RouteTable = await self._controller.listen(self._name, version)
        if table.version != version:
            self._connected = await self._router.apply(table)

    async def _report_drained(self) -> None:
        await self._drained.wait()
        self._drained.clear()
        await self._acknowledge()

    async def _acknowledge(self) -> None:
        await self._controller.acknowledge(
            self._name,
            self._router.table.version,
            self._connected,
            dict(self._router.in_flight),
            self._router.division.moving(self._router.table),
            self._router.calling(),
        )

    async def _watch(self) -> None:
        await asyncio.sleep(WATCH_S)
        self._router.watch()
        connected = await self._router.reconnect()
        if connected != self._connected:  # a swap may wait for this replica to reach a model
            self._connected = connected
            await self._acknowledge()

    async def _flush_later(self) -> None:
        await asyncio.sleep(self._config.flush_s)
        await self.flush()
        if any(route.trial for route in self._router.table.routes.values()):
            self._router.explorer.arms = await self._learning.arms()

    async def _tell_draws(self) -> None:
        """Tell the other replicas whom this one drew, before the next turn may reach them."""
        await self._drew.wait()
        drawn = self._router.explorer.drawn
        told = len(drawn.fresh)
        await self._learning.tell_draws(drawn.fresh[:told])
        del drawn.fresh[:told]
        if not drawn.fresh:
            self._drew.clear()
        await asyncio.sleep(DRAWS_S)

    async def _hear_draws(self) -> None:
        self._draws_place, draws = await self._learning.hear_draws(self._draws_place)
        self._router.explorer.drawn.take(draws)
        await asyncio.sleep(DRAWS_S)

    async def _judge_later(self) -> None:
        if not await self._router.recorder.judge_pending(self._judge):
            await asyncio.sleep(JUDGE_S)

    def _drop_oldest(self) -> None:
        """Drop the oldest batches beyond the bound; dropped outcomes are logged and counted."""
        dropped = 0
        while sum(map(len, self._unsent.values())) > MAX_UNSENT:
            dropped += len(self._unsent.pop(next(iter(self._unsent))))
        if dropped:
            self.lost_outcomes += dropped
            self._losses.warn(
                "%d outcomes are lost so far: the learnings take none, and no more than %d wait",
                self.lost_outcomes,
                MAX_UNSENT,
            )

    async def flush(self) -> None:
        """Hand in the outcomes so far. A batch keeps its id until it is acknowledged."""
        async with self._flushing:
            batch = self._router.recorder.take()
            if batch:
                self._unsent[uuid.uuid4().hex] = batch
                self._drop_oldest()
                self._on_batch(batch)
            for batch_id, rows in list(self._unsent.items()):
                await self._learning.record(rows, batch_id)
                del self._unsent[batch_id]
