"""The client's connection, without a cluster."""

import asyncio


class LocalLink:
    """The connection of an ``Arbiter``, to the controller and learnings of a world."""

    def __init__(self, world):
        self._loop = asyncio.get_running_loop()
        self._world = world

    def controller(self, method, *args, **options):
        return self._call(self._world.controller, method, args)

    controller_once = controller

    def learning(self, method, *args, **options):
        return self._call(self._world.learning, method, args)

    def _call(self, actor, method, args):
        work = getattr(actor, method)(*args)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


def client_of(kind, world):
    """A part of an ``Arbiter``, such as its schedules, on a world."""
    made = kind.__new__(kind)
    made._link = LocalLink(world)
    return made
