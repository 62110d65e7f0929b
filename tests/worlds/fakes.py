"""A cluster in memory that does as it is told, and everything a controller needs around it."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import orjson

from hotswap_ray.actors.cluster.fleet import AppState, room_of
from hotswap_ray.core.autoswap.view import Look
from hotswap_ray.core.errors import EngineError, EngineUnavailable, StoreError
from hotswap_ray.core.evidence.prediction import predict
from hotswap_ray.core.fit.room import Room
from hotswap_ray.core.rollout.guardrails import Seen
from hotswap_ray.core.routing.table import RouteTable
from hotswap_ray.core.routing.target import app_name

MIB = 2**20


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
        if method == "frames":
            return b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\ndata: [DONE]\n\n'
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
        self.cells = {}  # evidence that predictions are made of
        self.seen = None  # what models then do
        self.asked_since_s = None
        self.recorded = []
        self.traffic = {}  # requests a second by task
        self.views = None  # what the last look was about
        self.looks = 0  # how many have ended
        self.found = None  # what the next looks find, or a function of the views
        self.nudged = asyncio.Event()
        self.prices = {}  # by model, as last told
        self.rollouts = None  # from the canary's begin to what both models did

    async def transfer(self, task, from_model, to_model):
        if self.error:
            raise self.error
        self.transfers.append((task, from_model, to_model))
        return {"task": task}

    async def record(self, batch, batch_id):
        if self.error:
            raise self.error
        self.recorded += batch
        return len(batch)

    async def look(self, views, models, kept=frozenset(), wait_s=0.0):
        self.views = list(views)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self.nudged.wait()
        self.nudged.clear()
        self.looks += 1
        if self.error:
            raise self.error
        found = self.found(self.views) if callable(self.found) else self.found
        return found or Look((), ())

    async def observed(self, task, models, since_s):
        if self.error:
            raise self.error
        if self.rollouts is None:
            return dict.fromkeys(models, Seen(*[np.zeros(0)] * 7))
        return dict(zip(models, self.rollouts(since_s), strict=True))

    async def nudge(self):
        self.nudged.set()

    async def take_prices(self, prices):
        if self.error:
            raise self.error
        self.prices = dict(prices)

    async def rates(self):
        if self.error:
            raise self.error
        return self.traffic

    async def latency_p99(self, since_s, until_s):
        if self.error:
            raise self.error
        return {"p99_ms": 12.0, "count": 40}

    async def predict(self, task, model, known):
        if self.error:
            raise self.error
        return predict(task, model, self.cells, known).to_doc()

    async def actual(self, task, model, since_s):
        if self.error:
            raise self.error
        self.asked_since_s = since_s
        return self.seen and dict(self.seen)
