"""A cluster in memory that does as it is told, and everything a controller needs around it."""

import asyncio
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson

from hotswap_ray.actors import (
    application,
    model_pool,
    publisher,
    recovery,
    swap_actions,
    swap_runner,
)
from hotswap_ray.actors.fleet import AppState, room_of
from hotswap_ray.actors.swap_controller import SwapController
from hotswap_ray.config import Config
from hotswap_ray.core.errors import EngineError, EngineUnavailable, StoreError
from hotswap_ray.core.routes import RouteTable, app_name
from hotswap_ray.core.strategy import Room
from hotswap_ray.store import Store

MIB = 2**20
GRAVEYARD = []


class FakeClock:
    """Unix seconds that move when told."""

    def __init__(self, now_s=1_700_000_000.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


@dataclass
class Script:
    """How a model behaves.

    `load`: ok, raise, hang, die (after it was ready) or broken (Ray refuses to deploy).
    """

    load: str = "ok"
    load_s: float = 0.0
    answer: str = "right"
    answer_s: float = 0.0
    memory: int = 100 * MIB
    fails: set = field(default_factory=set)  # methods that raise
    calls: list = field(default_factory=list)


@dataclass
class FakeApp:
    spec: object
    generation: int
    status: str = "DEPLOYING"
    running: int = 0
    asleep: bool = False
    stopped: bool = False
    message: str = ""


class FakeIngress:
    """Follows the table of whichever controller lives, and says what is in flight."""

    def __init__(self, name):
        self.name = name
        self.table = RouteTable(version=-1)
        self.in_flight = defaultdict(int)
        self.late = asyncio.Event()
        self.late.set()
        self._controller = None

    async def follow(self, controller):
        self._controller = controller
        self.late = asyncio.Event()
        self.late.set()
        while True:
            try:
                table = await controller.listen(self.name, self.table.version)
            except StoreError:
                await asyncio.sleep(0.01)
                continue
            await self.late.wait()
            self.table = table
            await self.say()

    async def say(self):
        """Acknowledge the table in use."""
        in_flight = {app: count for app, count in self.in_flight.items() if count}
        await self._controller.acknowledge(
            self.name, self.table.version, [*self.table.targets()], in_flight
        )

    async def finish(self, app):
        """The last request on an application ends."""
        self.in_flight[app] = 0
        await self.say()


class FakeFleet:
    """Applications in memory. `harm` lists every request that a deletion would have cut off."""

    def __init__(self, total=None):
        self.total = total or Room(cpus=16, gpus=0, memory_bytes=16 * 1024 * MIB)
        self.apps = {}
        self.scripts = defaultdict(Script)
        self.ingress = {}
        self.log = []
        self.harm = []
        self.ray_is_down = False

    async def deploy(self, spec, generation, load_nice):
        app = app_name(spec.id, generation)
        if app in self.apps:
            return
        self.log.append(("deploy", app))
        if self.scripts[spec.id].load == "broken":
            raise EngineUnavailable("Ray refuses")
        self.apps[app] = FakeApp(spec, generation)
        await self._settle(app)

    async def _settle(self, app):
        found = self.apps[app]
        script = self.scripts[found.spec.id]
        if script.load_s:
            asyncio.get_running_loop().call_later(script.load_s, self._come_up, app)
        else:
            self._come_up(app)

    def _come_up(self, app):
        found = self.apps.get(app)
        if found is None:
            return
        match self.scripts[found.spec.id].load:
            case "raise":
                found.status, found.message = "DEPLOY_FAILED", "no such weights"
            case "ok" | "die":
                found.status, found.running = "RUNNING", found.spec.resources.min_replicas

    async def states(self):
        if self.ray_is_down:
            raise EngineUnavailable("Ray is away")
        await asyncio.sleep(0)
        return {
            name: AppState(app.status, app.running, 0, app.message)
            for name, app in self.apps.items()
        }

    async def delete(self, app):
        self.log.append(("delete", app))
        for ingress in self.ingress.values():
            if ingress.in_flight[app] or app in ingress.table.targets():
                self.harm.append((app, ingress.name, dict(ingress.in_flight)))
        self.apps.pop(app, None)

    async def kill_replicas(self, app):
        self.apps.pop(app, None)

    async def call(self, app, method, *args):
        found = self.apps.get(app)
        if found is None:
            await asyncio.Event().wait()  # as in Serve: for ever
        script = self.scripts[found.spec.id]
        script.calls.append(method)
        if method in script.fails or script.load == "die":
            raise EngineUnavailable(f"{app}: {method} fails as scripted")
        match method:
            case "ping":
                return {"memory_bytes": script.memory, "load_s": script.load_s}
            case "sleep":
                found.asleep = True
                return script.memory // 10
            case "wake":
                if found.stopped:
                    raise EngineError("the engine was stopped")
                found.asleep = False
                return script.memory
            case "stop":
                found.stopped = True
                return None
        await asyncio.sleep(script.answer_s)
        if found.asleep or found.stopped:
            raise EngineUnavailable("asleep")
        endpoint, _body = args
        choice = {"text": script.answer}
        if endpoint == "chat/completions":
            choice = {"message": {"content": script.answer}}
        return orjson.dumps({"choices": [choice]}), 1, 1, script.memory

    async def free(self):
        used = [Room()]
        for app in self.apps.values():
            need = room_of(app.spec)
            memory = self.scripts[app.spec.id].memory
            used.append(Room(need.cpus, need.gpus, memory // 10 if app.asleep else memory))
        total = self.total
        return Room(
            total.cpus - sum(room.cpus for room in used),
            total.gpus - sum(room.gpus for room in used),
            total.memory_bytes - sum(room.memory_bytes for room in used),
            total.accelerator_types,
        )

    async def is_alive(self, actor_name):
        return actor_name in self.ingress

    async def ingress_count(self):
        if self.ray_is_down:
            raise EngineUnavailable("Ray is away")
        return len(self.ingress)


class FakeLearning:
    """Learnings that carry over, unless told to fail."""

    def __init__(self):
        self.transfers = []
        self.error = None

    async def transfer(self, task, from_model, to_model):
        if self.error:
            raise self.error
        self.transfers.append((task, from_model, to_model))
        return {"task": task}

    async def latency_p99(self, since_s, until_s):
        if self.error:
            raise self.error
        return {"p99_ms": 12.0, "count": 40}


class ScriptedStore(Store):
    """The real store; it can refuse, be slow, lose the answer to a commit, or see a crash."""

    def __init__(self, url):
        self.refuses = False
        self.after_commit = None
        self.commits = 0
        super().__init__(url)

    @contextmanager
    def transaction(self):
        if getattr(self._local, "connection", None) is not None:
            with super().transaction() as connection:
                yield connection
            return
        if self.refuses:
            raise StoreError("the store is locked by another process")
        with super().transaction() as connection:
            yield connection
        self.commits += 1
        if self.after_commit:
            self.after_commit()

    @contextmanager
    def _reading(self):
        if self.refuses:
            raise StoreError("the store is locked by another process")
        with super()._reading() as connection:
            yield connection


def make_config(models=None, tasks=None, **swap):
    """Models a and b for tasks t (with golden prompts) and u; `swap` overrides its section."""
    golden = {"prompt": "say right", "check": {"kind": "contains", "value": "right"}}
    defaults = {
        "bake_s": 0,
        "load_wait_s": 0.05,
        "ack_timeout_s": 5,
        "drain_timeout_s": 5,
        "validation_timeout_s": 5,
    }
    base_models = {name: {"engine": "simulated", "load_timeout_s": 20} for name in "abc"}
    for name, more in (models or {}).items():
        base_models[name] = {**base_models.get(name, {"engine": "simulated"}), **more}
    return Config.model_validate(
        {
            "models": base_models,
            "tasks": tasks or {"t": {"model": "a", "golden": [golden]}, "u": {"model": "a"}},
            "server": {"ingress_replicas": 2},
            "swap": {**defaults, **swap},
        }
    )


class World:
    """A store, a cluster with two ingress replicas, and a controller that may be replaced."""

    def __init__(self, path, config=None, total=None, replicas=2):
        self.config = config or make_config()
        self.store = ScriptedStore(f"sqlite:///{path}/hotswap.sqlite")
        self.fleet = FakeFleet(total)
        self.learning = FakeLearning()
        self.clock = FakeClock()
        for number in range(replicas):
            self.add_ingress(f"i{number}")
        self.controller = None
        self._followers = {}

    def add_ingress(self, name):
        self.fleet.ingress[name] = FakeIngress(name)
        return self.fleet.ingress[name]

    async def start(self):
        """A new controller on the same store and cluster, and the replicas that follow it."""
        self.controller = SwapController(
            self.config, self.store, self.fleet, self.learning, self.clock
        )
        for ingress in self.fleet.ingress.values():
            self.follow(ingress)
        await self.controller.start()
        await self.until(lambda: all(route.active for route in self.table.routes.values()))
        return self.controller

    def follow(self, ingress):
        self._followers[ingress.name] = asyncio.create_task(ingress.follow(self.controller))

    def kill_ingress(self, name):
        self._followers.pop(name).cancel()
        del self.fleet.ingress[name]

    @property
    def table(self):
        return self.controller._publisher.table

    async def until(self, condition, timeout_s=10):
        """Wait until a condition holds."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)

    async def swap(self, task, model, **options):
        """Swap and wait for its end."""
        record = await self.controller.swap(task, model, **options)
        return await self.controller.wait(record["swap_id"], 10)

    async def swap_until(self, phase, task, model, **options):
        """Begin a swap and return when it is in a phase."""
        record = await self.controller.swap(task, model, **options)
        await self.in_phase(record["swap_id"], phase)
        return record["swap_id"]

    async def in_phase(self, swap_id, phase):
        async with asyncio.timeout(10):
            while (await self.controller.wait(swap_id, 0))["phase"] != phase:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    def model_of(self, task):
        return self.table.routes[task].model

    def loaded(self):
        """Models with an application, and in which state the controller has them."""
        return {name: g.state for name, g in self.controller._pool.generations.items()}

    def nothing_is_left_of(self, model):
        """No application, no record and no target of a model."""
        apps = [name for name, app in self.fleet.apps.items() if app.spec.id == model]
        rows = [
            doc["id"] for doc in self.store.load_generations() if doc["value"]["model"] == model
        ]
        return not apps and not rows and self.table.models[model] is None


async def make_world(path, *args, **options):
    """A started ``World``."""
    made = World(path, *args, **options)
    await made.start()
    return made


def quick_polls(monkeypatch):
    """Polls and retries in milliseconds."""
    monkeypatch.setattr(application, "POLL_S", 0.002)
    monkeypatch.setattr(model_pool, "ROOM_POLL_S", 0.005)
    monkeypatch.setattr(swap_actions, "POLL_S", 0.005)
    monkeypatch.setattr(publisher, "CHECK_S", 0.01)
    monkeypatch.setattr(swap_runner, "RETRY_S", (0.005,))
    monkeypatch.setattr(recovery, "RELOAD_S", 0.01)


class Crash:
    """Stops the loop after the n-th commit, as a `kill -9` of the controller would.

    The loop, its tasks and its last thread are abandoned where they are: no clean-up code of
    theirs runs.
    """

    def __init__(self):
        self._released = threading.Event()
        self.happened = False

    def after(self, world, commits, loop):
        left = [commits]

        def hook():
            left[0] -= 1
            if left[0] == 0:
                self.happened = True
                loop.call_soon_threadsafe(loop.stop)
                self._released.wait(30)
                raise StoreError("this controller is dead")

        world.store.after_commit = hook

    def bury(self, loop):
        """Keep a dead loop from being collected: that would run its tasks' clean-up."""
        loop.set_exception_handler(lambda *_: None)
        GRAVEYARD.append((loop, asyncio.all_tasks(loop)))

    def release(self):
        self._released.set()
