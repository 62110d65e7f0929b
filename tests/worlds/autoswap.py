"""What the tests of the loop that swaps by itself share: its settings, and what a look finds."""

from hotswap_ray.core.autoswap.decide import Decision
from hotswap_ray.core.autoswap.view import Finding, Look
from tests.worlds.controller import make_config

GOLDEN = {"prompt": "say right", "check": {"kind": "contains", "value": "right"}}


def settings(mode="on", task=None, models=None, swap=None, **autoswap):
    """Task ``t`` in a mode, looked at often, and ``u``, which nobody decides about."""
    tasks = {
        "t": {
            "model": "a",
            "golden": [GOLDEN],
            "autoswap": {"mode": mode, "look_s": 0.05, **autoswap},
            **(task or {}),
        },
        "u": {"model": "a"},
    }
    return make_config(models, tasks, **(swap or {}))


def finding(action="promote", model="b", reason="better", active="a", task="t", applies=True):
    """What a look says of a task."""
    return Finding(Decision(task, action, reason, active, model, applies), {})


def look(*findings, alarms=()):
    """A look that finds this whatever it is shown."""
    return Look(findings, tuple(alarms))


def once(*findings):
    """Findings that hold while the models of their tasks serve."""

    def found(views):
        active = {view.task: view.active for view in views}
        return look(*(f for f in findings if active.get(f.decision.task) == f.decision.active))

    return found


async def looks(world, count=3):
    """So many looks later."""
    goal = world.learning.looks + count
    await world.until(lambda: world.learning.looks >= goal)


async def swap_by_itself(world, phase="succeeded"):
    """The first swap, when it is in a phase."""
    await world.until(world.store.load_swaps)
    (record,) = world.store.load_swaps()
    await world.in_phase(record["swap_id"], phase)
    return await world.controller.wait(record["swap_id"], 0)


def view_of(world, task="t"):
    """What the last look was shown of a task."""
    return next(view for view in world.learning.views if view.task == task)


def kept(world, action="promote", task="t"):
    """The decisions of a kind that were saved."""
    return [row for row in world.store.load_decisions(task) if row["action"] == action]


def facts(world, kind):
    """The events of a kind."""
    return [row["doc"] for row in world.store.load_events(limit=1000) if row["kind"] == kind]
