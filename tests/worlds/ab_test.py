"""What the tests of A/B tests have in common: a plan that is quick, and what models did."""

import asyncio

import numpy as np

from hotswap_ray.core.rollout.guardrails import Seen

SPEC = {"variants": ["b"], "settle_s": 0, "check_s": 0.05}
ALL_RIGHT, HALF, SOME = [1.0], [1.0, 0.0], [1.0, 0.0, 0.0, 0.0]


def seen(quality, number=200, failures=0, at_s=2e9):
    """Requests whose quality repeats a pattern."""
    success, none = np.ones(number), np.full(number, np.nan)
    success[:failures] = 0
    latency, arrival = np.full(number, 10.0), np.full(number, at_s)
    return Seen(success, latency, none, np.resize(quality, number), arrival, none, none)


def few(*patterns):
    """Too few requests of each model to end anything."""
    return lambda since_s: [seen(pattern, 6) for pattern in patterns]


def many(*patterns):
    """Enough of them."""
    return lambda since_s: [seen(pattern, 400) for pattern in patterns]


async def ended(world, test_id):
    """The record of a test at its end."""
    record = await world.controller.ab_test_report(test_id, 30)
    assert record["phase"] == "ended", record
    return record


async def in_phase(world, test_id, phase):
    async with asyncio.timeout(10):
        while (await world.controller.ab_test_report(test_id))["phase"] != phase:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def events(world):
    """What was told of A/B tests."""
    found = await world.controller.events(0, 1000)
    return [event["doc"] for event in found if event["kind"] == "ab_test"]
