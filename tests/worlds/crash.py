"""The death of a controller after each of its saves, and the one that comes after it."""

import asyncio
import threading
from contextlib import suppress
from itertools import pairwise

from hotswap_ray.core.errors import IllegalTransition, StoreError
from hotswap_ray.core.swap.phases import TERMINAL, TRANSITIONS, Phase
from tests.worlds.controller import ControllerWorld
from tests.worlds.fakes import FakeIngress

GRAVEYARD = []
MOST_COMMITS = 60
OPEN = {phase.value for phase in Phase} - TERMINAL


def crash_after_every_commit(job, check, path, new_world=ControllerWorld, prepare=None, go_on=None):
    """Run a job with a death after its first commit, again after its second, until none happens.

    A failure says after which commit the controller had died.

    Args:
        job: What is done in a started world; its commits are those that are counted.
        check: Sees the world at the end of each run: the heir's, and at last the one that lived.
        path: Folder in which each run has a folder.
        new_world: Makes a world in a folder.
        prepare: What is done in the world before the job.
        go_on: Starts an heir and brings it to the end; ``end_swaps`` if there is none.
    """
    for commit in range(1, MOST_COMMITS):
        folder = path / str(commit)
        folder.mkdir()
        world = new_world(folder)
        try:
            world, crashed = run_with_crash(world, commit, job, prepare, go_on)
            check(world)
        except Exception as error:  # whatever it is, it must say where; it goes on as it was
            error.add_note(f"the controller died after commit {commit}: {world.store.load_swaps()}")
            raise
        if not crashed:
            return
    raise AssertionError("the job has more commits than were tried")


def run_with_crash(world, when, job, prepare=None, go_on=None):
    """Start a world, run a job in it, crash, and let an heir go on.

    Args:
        world: One that was not started.
        when: The number of commits, or what says of a world whether its last commit is the one.
        job: See ``crash_after_every_commit``, as for the others.
        prepare: Is not counted.
        go_on: Of the heir.

    Returns:
        The world of whoever is alive at the end, and whether it came to a crash.
    """
    crash, loop = Crash(), asyncio.new_event_loop()
    loop.run_until_complete(world.start())
    if prepare:
        loop.run_until_complete(prepare(world))
    if callable(when):
        crash.when(world, lambda: when(world), loop)
    else:
        crash.after(world, when, loop)
    work = loop.create_task(job(world))
    work.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    crash.bury(loop)
    if not crash.happened:
        work.result()
        world.store.after_commit = None
        return world, False
    heir = succession(world)
    try:
        with asyncio.Runner() as runner:
            runner.run(go_on(heir) if go_on else end_swaps(heir, job))
    finally:
        crash.release()
    return heir, True


def succession(world):
    """Another process with the same store and cluster."""
    heir = type(world)(world.path, world.config, replicas=0)
    heir.fleet, heir.learning = world.fleet, world.learning
    heir.learning.nudged = asyncio.Event()  # the old one belongs to the loop that died
    for name, old in world.fleet.ingress.items():
        ingress = heir.fleet.ingress[name] = FakeIngress(name)
        ingress.table, ingress.in_flight = old.table, old.in_flight
    return heir


async def restart(world):
    """The old controller is gone; its successor."""
    for follower in world._followers.values():
        follower.cancel()
    heir = succession(world)
    await heir.start()
    return heir


async def end_swaps(heir, job):
    """Start an heir and wait until its swaps have ended; those that bake are promoted."""
    await heir.start()
    if not await heir.controller.swaps():  # it was not saved: who got no answer asks again
        await job(heir)
    for record in await heir.controller.swaps():
        while (record := await heir.controller.wait(record["swap_id"], 0.02))["phase"] in OPEN:
            if record["phase"] == "baking":
                with suppress(IllegalTransition):  # it ended by itself
                    await heir.controller.signal(record["swap_id"], "promote")
    await heir.until(lambda: not heir.controller._recovery._work)
    await heir.until(lambda: not heir.controller._runner._tasks)


async def plain_swap(world):
    """The job that most crashes fall into."""
    await world.swap("t", "b", swap_id="s1")


def check_history(world, swap_id="s1"):
    """One legal way through the table and no application deployed twice; its phases."""
    phases = [Phase(row["phase"]) for row in world.store.load_journal(swap_id)]
    assert phases[0] is Phase.REQUESTED
    for before, after in pairwise(phases):
        assert after in TRANSITIONS[before].values()
    deployed = [app for verb, app in world.fleet.log if verb == "deploy"]
    assert len(deployed) == len(set(deployed)), "an application was deployed twice"
    return phases


class Crash:
    """Stops the loop after the n-th commit, as a `kill -9` of the controller would.

    The loop, its tasks and its last thread are abandoned where they are: no clean-up code of
    theirs runs.
    """

    def __init__(self):
        self._released = threading.Event()
        self.happened = False

    def after(self, world, commits, loop):
        left = iter(range(commits))
        self.when(world, lambda: next(left) == commits - 1, loop)

    def when(self, world, condition, loop):
        """Crash after the first commit for which ``condition`` holds."""

        def hook():
            if not self.happened and condition():
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
