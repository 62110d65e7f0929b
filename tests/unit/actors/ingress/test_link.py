"""The link of an ingress replica to the two actors, which are played by recording objects."""

import asyncio
from dataclasses import replace

import pytest

from hotswap_ray.actors.ingress import link as control_link
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.link import ControlLink
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config.sections import LearningConfig, ServerConfig
from hotswap_ray.core.errors import EngineUnavailable, StoreError
from hotswap_ray.core.routing.table import Route, RouteTable, with_model, with_route
from hotswap_ray.core.routing.target import Target
from tests.worlds.until import until

A, B = Target("a", 1, 8), Target("b", 1, 8)
TABLE = RouteTable(1, "t", {"t": Route("a", A)}, {"a": A, "b": B})


class Controller:
    """Answers a long-poll as the controller does; may be away."""

    def __init__(self):
        self.table = TABLE
        self.said = []
        self.away = 0
        self.error = EngineUnavailable("the actor is restarting")
        self._news = asyncio.Event()
        self.waiting = asyncio.Event()
        self.heard = asyncio.Event()

    def publish(self, table):
        self.table = replace(table, version=self.table.version + 1)
        self.turn()

    def turn(self):
        """Let waiting long-polls return."""
        self._news.set()
        self._news = asyncio.Event()

    async def listen(self, name, version):
        self._fail()
        if self.table.version == version:
            self.waiting.set()
            await self._news.wait()
        return self.table

    def _fail(self):
        if self.away:
            self.away -= 1
            raise self.error

    async def acknowledge(self, name, version, connected, in_flight, moving=None, calling=()):
        self._fail()
        self.said.append((name, version, sorted(connected), in_flight))
        self.heard.set()
        self.heard = asyncio.Event()

    async def until(self, ok):
        async with asyncio.timeout(5):
            while not any(map(ok, self.said)):
                await self.heard.wait()


class Learning:
    """Takes batches, or refuses as often as told."""

    def __init__(self):
        self.batches = []
        self.attempts = []
        self.refuse = 0
        self.error = StoreError("the disk is full")
        self.took = asyncio.Event()
        self.told, self.others = [], asyncio.Queue()

    async def tell_draws(self, draws):
        self.told += draws

    async def hear_draws(self, place):
        return place, [await self.others.get()]

    async def record(self, rows, batch_id):
        self.attempts.append(batch_id)
        if self.refuse:
            self.refuse -= 1
            raise self.error
        self.batches.append((batch_id, [row.request_id for row in rows]))
        self.took.set()
        return len(rows)


class Model:
    """Answers when its gate is open."""

    def __init__(self):
        self.entered, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def generate(self, endpoint, body):
        self.entered.set()
        await self.gate.wait()
        return b"{}", 1, 1, 1

    async def ping(self):
        return {}


class World:
    """A link with both actors and one router."""

    def __init__(self):
        self.controller, self.learning, self.model = Controller(), Learning(), Model()
        self.batches = []
        self.router = Router(
            ServerConfig(), lambda target: self.model, on_drained=lambda: self.link.drained()
        )
        self.link = ControlLink(
            "ingress-1",
            self.router,
            self.controller,
            self.learning,
            LearningConfig(flush_s=0.01),
            self.batches.append,
        )

    async def ask(self, name):
        await self.router.generate(Call(name, "completions", {}, "auto"))


@pytest.fixture(autouse=True)
def _retry_at_once(monkeypatch):
    monkeypatch.setattr(control_link, "RETRY_S", 0.001)


@pytest.fixture
async def world():
    return World()


async def test_a_start_waits_for_the_controller_and_returns_with_a_table(world):
    world.controller.away = 3
    await world.link.start()
    assert world.router.table == TABLE
    await world.controller.waiting.wait()
    assert world.controller.said == [("ingress-1", 1, [A.app, B.app], {})]


async def test_a_new_table_is_used_and_then_acknowledged_with_what_is_in_flight(world):
    await world.link.start()
    world.model.gate.clear()
    request = asyncio.create_task(world.ask("r1"))
    await world.model.entered.wait()
    world.controller.publish(with_route(TABLE, "t", B, {}))
    await world.controller.until(lambda said: said[1] == 2)
    assert world.router.table.routes["t"].active == B
    assert world.controller.said[-1] == ("ingress-1", 2, [A.app, B.app], {A.app: 1})
    world.model.gate.set()
    await request


async def test_the_last_byte_on_a_model_that_drains_is_reported_at_once(world):
    await world.link.start()
    world.model.gate.clear()
    request = asyncio.create_task(world.ask("r1"))
    await world.model.entered.wait()
    world.controller.publish(with_route(TABLE, "t", B, {}))
    await world.controller.until(lambda said: said[1] == 2)
    world.controller.publish(with_model(world.controller.table, "a", None, {}))
    await world.controller.until(lambda said: said[1:] == (3, [B.app], {A.app: 1}))
    world.model.gate.set()
    await request
    await world.controller.until(lambda said: said[1:] == (3, [B.app], {}))


async def test_a_controller_that_restarted_hears_from_us_without_a_new_table(world):
    await world.link.start()
    await world.controller.waiting.wait()
    world.controller.said.clear()
    world.controller.waiting.clear()
    world.controller.away = 1
    world.controller.turn()
    await world.controller.waiting.wait()
    assert world.controller.said == [("ingress-1", 1, [A.app, B.app], {})]


async def test_a_controller_that_lost_its_state_is_followed_to_a_lower_version(world):
    world.controller.table = replace(TABLE, version=9)
    await world.link.start()
    world.controller.table = replace(TABLE, version=2)
    await world.controller.waiting.wait()
    world.controller.turn()
    await world.controller.until(lambda said: said[1] == 2)
    assert world.router.table.version == 2


@pytest.mark.parametrize("error", [EngineUnavailable("away"), RuntimeError("a surprise")])
async def test_while_the_controller_is_away_traffic_flows_and_the_table_is_followed_after(
    world, error
):
    await world.link.start()
    world.controller.away, world.controller.error = 5, error
    await world.controller.waiting.wait()
    world.controller.turn()
    await world.ask("r1")
    world.controller.publish(with_route(TABLE, "t", B, {}))
    await world.controller.until(lambda said: said[1] == 2)
    assert world.controller.away == 0


async def test_outcomes_are_handed_in_as_one_batch_and_shown_once(world):
    await world.link.start()
    for name in ("r1", "r2", "r3"):
        await world.ask(name)
    await world.link.flush()
    await world.link.flush()
    assert [rows for _, rows in world.learning.batches] == [["r1", "r2", "r3"]]
    assert [len(batch) for batch in world.batches] == [3]
    assert not world.router.recorder.outcomes


async def test_outcomes_are_handed_in_without_being_asked(world):
    await world.link.start()
    await world.ask("r1")
    async with asyncio.timeout(5):
        await world.learning.took.wait()


async def test_a_refused_batch_is_sent_again_under_the_same_id_before_newer_ones(world):
    await world.router.apply(TABLE)
    world.learning.refuse = 2
    await world.ask("r1")
    with pytest.raises(StoreError):
        await world.link.flush()
    await world.ask("r2")
    with pytest.raises(StoreError):
        await world.link.flush()
    await world.link.flush()
    assert [rows for _, rows in world.learning.batches] == [["r1"], ["r2"]]
    assert len(set(world.learning.attempts)) == 2
    assert world.learning.attempts[:3] == [world.learning.attempts[0]] * 3
    assert [len(batch) for batch in world.batches] == [1, 1]


async def test_a_batch_survives_a_surprise_in_whoever_looks_at_it(world):
    await world.router.apply(TABLE)
    await world.ask("r1")

    def broken(batch):
        raise RuntimeError("metrics are not there")

    world.link._on_batch = broken
    with pytest.raises(RuntimeError):
        await world.link.flush()
    await world.link.flush()
    assert [rows for _, rows in world.learning.batches] == [["r1"]]


async def test_outcomes_wait_within_a_bound_while_the_learning_actor_is_away(
    world, monkeypatch, caplog
):
    monkeypatch.setattr(control_link, "MAX_UNSENT", 3)
    await world.router.apply(TABLE)
    world.learning.refuse, world.learning.error = 3, EngineUnavailable("away")
    for number in range(6):
        await world.ask(f"r{number}")
        if number % 2:
            with pytest.raises(EngineUnavailable):
                await world.link.flush()
    await world.link.flush()
    assert [rows for _, rows in world.learning.batches] == [["r4", "r5"]]
    assert world.link.lost_outcomes == 4
    lost = [record.getMessage() for record in caplog.records if "are lost" in record.getMessage()]
    assert len(lost) == 1  # the second batch is lost within the same minute
    assert lost[0].startswith("2 outcomes are lost so far")


async def test_a_loss_is_counted_by_the_time_the_batch_that_brought_it_is_shown(world, monkeypatch):
    monkeypatch.setattr(control_link, "MAX_UNSENT", 0)
    await world.router.apply(TABLE)
    seen = []
    world.link._on_batch = lambda batch: seen.append(world.link.lost_outcomes)
    await world.ask("r1")
    await world.link.flush()
    assert seen == [1]


async def test_two_flushes_at_once_send_each_outcome_once(world):
    await world.router.apply(TABLE)
    await world.ask("r1")
    await asyncio.gather(world.link.flush(), world.link.flush())
    assert [rows for _, rows in world.learning.batches] == [["r1"]]


async def test_what_a_replica_drew_is_told_and_what_others_drew_is_heard(world):
    await world.link.start()
    explorer = world.router.explorer
    explorer.drawn.add(7, "b")
    explorer.on_draw()
    await until(lambda: world.learning.told == [(7, "b")])
    await until(lambda: explorer.drawn.fresh == [])
    world.learning.others.put_nowait((8, "c"))
    await until(lambda: explorer.drawn.of(8) == "c")
    assert explorer.drawn.fresh == []  # what was heard is not told again
