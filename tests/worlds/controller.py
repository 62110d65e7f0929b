"""A controller with everything around it."""

import asyncio

from hotswap_ray.actors.cluster import application
from hotswap_ray.actors.cluster.judge_here import judge_here
from hotswap_ray.actors.controller import recovery
from hotswap_ray.actors.controller.controller import SwapController
from hotswap_ray.actors.controller.models import pool as model_pool
from hotswap_ray.actors.controller.models import publisher
from hotswap_ray.actors.controller.swaps import phases as swap_actions
from hotswap_ray.actors.controller.swaps import runner as swap_runner
from hotswap_ray.config import Config
from tests.worlds.fakes import FakeClock, FakeFleet, FakeIngress, FakeLearning
from tests.worlds.store import ScriptedStore
from tests.worlds.until import until


def make_config(models=None, tasks=None, **swap):
    """Models a and b for tasks t (with golden prompts) and u; `swap` overrides its section."""
    golden = {"prompt": "say right", "check": {"kind": "contains", "value": "right"}}
    defaults = {
        "bake_s": 0,
        "load_wait_s": 0.05,
        "ack_timeout_s": 5,
        "drain_timeout_s": 5,
        "validation_timeout_s": 60,
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


class ControllerWorld:
    """A store, a cluster with two ingress replicas, and a controller that may be replaced."""

    def __init__(self, path, config=None, total=None, replicas=2):
        self.path = path
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
            self.config, self.store, self.fleet, self.learning, self.clock, judge=judge_here
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
        await until(condition, timeout_s)

    async def quiet(self):
        """Wait until nothing of the start is being saved any more."""
        tasks = len(self.config.tasks)
        await self.until(
            lambda: (
                not self.controller._recovery._work and len(self.store.load_decisions()) == tasks
            )
        )

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

    async def while_saving(self, held, swap_id, asking):
        """Begin to ask while a save of a swap is under way, end the save; what was answered."""
        await held.begun.wait()
        asked = asyncio.create_task(asking)
        signals = self.controller._runner._signals
        await self.until(lambda: asked.done() or signals[swap_id].qsize())
        held.release()
        (answer,) = await asyncio.gather(asked, return_exceptions=True)
        return answer

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
    """A started ``ControllerWorld``."""
    made = ControllerWorld(path, *args, **options)
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
