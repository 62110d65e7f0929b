"""A router over recording models in this process, for the tests of the router."""

import asyncio
from collections import Counter

from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import EngineError
from hotswap_ray.core.routing.table import Route, RouteTable, with_route
from hotswap_ray.core.routing.target import Target

A, B, C = Target("a", 1, 8), Target("b", 1, 8), Target("c", 1, 8)
FALLBACK = {"t": "b"}


class Model:
    """What the connections of one model answer; every call and its end is written down."""

    def __init__(self, name):
        self.name = name
        self.pieces = [b"one ", b"two", (3, 2, 64)]
        self.fails_at = None
        """Piece before which it fails; a whole answer fails at once."""
        self.error = EngineError("broken")
        self.gate = asyncio.Event()
        """Closed: a whole answer, and a stream before each piece from ``waits_at``, waits."""
        self.gate.set()
        self.waits_at = 0
        self.pings = True
        self.calls = 0
        self.ended = 0

    async def generate(self, endpoint, body):
        self.calls += 1
        try:
            await self.gate.wait()
            if self.fails_at is not None:
                raise self.error
            return self.name.encode(), 3, 2, 64
        finally:
            self.ended += 1

    async def stream(self, endpoint, body):
        self.calls += 1
        try:
            for index, piece in enumerate(self.pieces):
                if index >= self.waits_at:
                    await self.gate.wait()
                if index == self.fails_at:
                    raise self.error
                yield piece
            if self.fails_at is not None and self.fails_at >= len(self.pieces):
                raise self.error
        finally:
            self.ended += 1

    async def ping(self):
        if not self.pings:
            await asyncio.Event().wait()
        return {}


class RouterWorld:
    """A router over recording models, and the table it uses."""

    def __init__(self, tasks=None, **limits):
        self.models = {name: Model(name) for name in "abc"}
        self.connects = Counter()
        self.drained = 0
        self.now_s = 100.0
        self.router = Router(
            ServerConfig(**limits), self.connect, lambda: self.now_s, self.on_drained, tasks
        )
        self.table = RouteTable(
            1, "t", {"t": Route("a", A, B), "u": Route("c", C)}, {"a": A, "b": B, "c": C}
        )

    def connect(self, target):
        self.connects[target.app] += 1
        return self.models[target.model]

    def on_drained(self):
        self.drained += 1

    async def use(self, table=None):
        self.table = table or self.table
        return await self.router.apply(self.table)

    async def switch(self, target, task="t"):
        return await self.use(with_route(self.table, task, target, FALLBACK))

    @property
    def endings(self):
        """How each request ended, and at which model."""
        return [(o.model, o.end) for o in self.router.recorder.outcomes]

    @property
    def outcomes(self):
        return [(o.model, o.decision, o.success) for o in self.router.recorder.outcomes]


def call(model="auto", **changes):
    return Call("r1", "completions", {"prompt": "hi"}, model, **changes)


def named(conversation):
    """What names a conversation, as a client's session header does."""
    return (("x-session-id", conversation),) if conversation else ()


def asked(number, conversation=None, **body):
    """A request for task t."""
    return Call(f"r{number}", "completions", body, "auto", "t", names=named(conversation))


async def answer(world, call):
    """Which model answered it, and why."""
    choice, _ = await world.router.generate(call)
    return choice.target.model, str(choice.decision)


async def settle():
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def read(opened):
    return [opened.first, *[item async for item in opened.rest]]
