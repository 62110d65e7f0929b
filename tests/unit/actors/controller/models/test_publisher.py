"""A table is saved, then seen, then acknowledged by every ingress replica that lives."""

import asyncio

import pytest

from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.core.errors import Conflict, EngineUnavailable, StoreError
from hotswap_ray.core.routing.table import Route, RouteTable, with_model
from hotswap_ray.core.routing.target import Target

A = Target("a", 1, 4)
TABLE = RouteTable(version=7, routes={"t": Route("a")}, models={"a": None})


class Desk:
    """A publisher with its saves, and who is alive."""

    def __init__(self, replicas=()):
        self.saved = []
        self.alive = set(replicas)
        self.error = None
        self.publisher = Publisher(TABLE, self.save, self.is_alive, self.expected, self.reload)
        for name in replicas:
            self.publisher.acknowledge(name, 7, [], {})

    async def save(self, table):
        if self.error:
            raise self.error
        self.saved.append(table)

    async def is_alive(self, name):
        return name in self.alive

    async def expected(self):
        return len(self.alive)

    async def reload(self):
        return self.saved[-1] if self.saved else None

    def commit(self, timeout_s=5.0, save=None):
        return self.publisher.commit(lambda table: with_model(table, "a", A, {}), timeout_s, save)


async def test_a_commit_is_saved_before_it_is_seen_and_ends_with_the_last_acknowledgement():
    desk = Desk(["i0", "i1"])
    commit = asyncio.create_task(desk.commit())
    table = await desk.publisher.listen("i0", 7)
    assert table == desk.saved[0]
    assert table.version == 8
    desk.publisher.acknowledge("i0", 8, [A.app], {})
    await asyncio.sleep(0)
    assert not commit.done()
    desk.publisher.acknowledge("i1", 8, [A.app], {})
    assert await commit >= 0


async def test_a_dead_replica_is_dropped_and_not_waited_for():
    desk = Desk(["i0", "i1"])
    commit = asyncio.create_task(desk.commit())
    await desk.publisher.listen("i0", 7)
    desk.publisher.acknowledge("i0", 8, [A.app], {})
    desk.alive.remove("i1")
    async with asyncio.timeout(5):
        await commit
    assert set(desk.publisher.listeners) == {"i0"}


async def test_a_late_replica_does_not_stop_a_commit_but_keeps_a_model_from_going():
    desk = Desk(["i0", "i1"])
    desk.publisher.acknowledge("i0", 8, [A.app], {})
    await desk.commit(timeout_s=0.05)
    assert desk.publisher.table.version == 8
    assert not await desk.publisher.drained(A.app, 0.05)
    desk.publisher.acknowledge("i1", 8, [A.app], {A.app: 1})
    assert not await desk.publisher.drained(A.app, 0.05)
    desk.publisher.acknowledge("i1", 8, [A.app], {})
    assert await desk.publisher.drained(A.app, 5)


async def test_a_replica_that_this_process_does_not_know_is_answered_at_once():
    desk = Desk()
    async with asyncio.timeout(1):
        assert (await desk.publisher.listen("i0", 7)).version == 7


async def test_a_new_process_waits_until_every_running_replica_was_heard_of():
    desk = Desk(["i0", "i1"])
    desk.publisher.listeners.clear()
    assert not await desk.publisher.drained(A.app, 0.05)
    for name in ("i0", "i1"):
        desk.publisher.acknowledge(name, 7, [], {})
    assert await desk.publisher.drained(A.app, 5)


async def test_a_table_that_cannot_be_saved_is_not_published():
    desk = Desk(["i0"])
    desk.error = StoreError("full")
    with pytest.raises(StoreError):
        await desk.commit()
    assert desk.publisher.table == TABLE


async def test_a_commit_of_which_nobody_knows_the_end_is_looked_up():
    """The server saved it and the connection broke before it could say so."""
    desk = Desk(["i0"])

    async def saved_but_broken(table):
        desk.saved.append(table)
        raise StoreError("connection lost")

    with pytest.raises(StoreError):
        await desk.commit(save=saved_but_broken)
    await desk.publisher.commit(lambda table: table, 0)
    assert desk.publisher.table.version == 9
    assert desk.publisher.table.models == {"a": A}


async def test_another_controller_at_work_stays_a_conflict():
    desk = Desk(["i0"])
    desk.error = Conflict("another controller is at work")
    for _ in range(2):
        with pytest.raises(Conflict):
            await desk.commit()
    assert desk.publisher.table == TABLE


async def test_a_cancelled_commit_is_made_whole_or_not_at_all():
    desk = Desk(["i0"])
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(table):
        begun.set()
        await go_on.wait()
        desk.saved.append(table)

    commit = asyncio.create_task(desk.commit(save=slow))
    await begun.wait()
    commit.cancel()
    go_on.set()
    await asyncio.wait([commit])
    await desk.publisher.commit(lambda table: table, 0)
    assert [table.version for table in desk.saved] == [8, 9]
    assert desk.publisher.table == desk.saved[-1]


async def test_a_ray_that_cannot_be_asked_kills_nobody_and_undoes_no_commit():
    desk = Desk(["i0"])

    async def unknown(_name=None):
        raise EngineUnavailable("Ray is away")

    desk.publisher._is_alive = desk.publisher._expected = unknown
    await desk.commit(timeout_s=0.05)
    assert desk.publisher.table.version == 8
    assert set(desk.publisher.listeners) == {"i0"}
