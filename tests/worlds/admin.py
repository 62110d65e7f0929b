"""The control plane's HTTP interface over a controller that records what it is asked."""

import asyncio

from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import NotFound
from hotswap_ray.web.admin.api import AdminApi
from hotswap_ray.web.openai_api import OpenAIApi

STATUS = {
    "version": 3,
    "default_task": "chat",
    "tasks": {"chat": {"model": "a", "generation": 1, "fallback": None, "held": False}},
    "models": [{"model": "a", "state": "ready"}],
    "open_swaps": [{"swap_id": "s1", "task": "chat"}, {"swap_id": "s2", "task": "other"}],
    "open_ab_tests": [{"id": "x1", "task": "other"}, {"id": "x2", "task": "chat"}],
    "ingress": {},
    "last_error": "",
}


class RecordingController:
    """Answers with what it was asked."""

    def __init__(self):
        self.calls = []
        self.error = None
        self.log = []

    def __getattr__(self, method):
        async def call(*args, **kwargs):
            self.calls.append((method, args, kwargs))
            if self.error:
                raise self.error
            return {"swap_id": "s1", "asked": method}

        return call

    async def status(self):
        return STATUS

    async def swaps(self, task, limit):
        return [{"task": task, "limit": limit}]

    async def journal(self, swap_id):
        return [{"phase": "requested"}]

    async def events(self, after_id, limit=100):
        if self.error:
            error, self.error = self.error, None
            raise error
        return [event for event in self.log if event["id"] > after_id]


class TaskLearnings:
    """Knows how the models of one task do."""

    async def task_performance(self, task):
        if task != "chat":
            raise NotFound(f"unknown task {task!r}")
        return {"task": task, "models": []}


def make_app(controller, **settings):
    """The application, as a server would run it."""
    server = ServerConfig(**settings)
    return OpenAIApi(server, None, None, AdminApi(server, controller, TaskLearnings()))


class Listener:
    """A client of the event stream, over bare ASGI."""

    def __init__(self, controller, query=b"", headers=()):
        self.frames = asyncio.Queue()
        self._gone = asyncio.Event()
        self._began = False
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/admin/events",
            "query_string": query,
            "headers": list(headers),
        }
        self.task = asyncio.create_task(make_app(controller)(scope, self._receive, self._send))

    async def _receive(self):
        if not self._began:
            self._began = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        await self.frames.put(message)

    async def next(self):
        return await asyncio.wait_for(self.frames.get(), 5)

    async def leave(self):
        self._gone.set()
        await asyncio.wait_for(self.task, 5)


def swap_event(number):
    """An event of a swap, as the controller tells it."""
    return {"id": number, "kind": "swap", "at_s": 1.0, "doc": {"phase": f"p{number}"}}
