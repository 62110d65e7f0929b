"""What the tests of A/B tests have in common: a plan that is quick, and what models did."""

import asyncio

from tests.worlds.seen import seen

SPEC = {"variants": ["b"], "settle_s": 0, "check_s": 0.05}
ALL_RIGHT, HALF, SOME = [1.0], [1.0, 0.0], [1.0, 0.0, 0.0, 0.0]


def few(*patterns):
    """Too few requests of each model to end anything."""
    return lambda since_s: [seen(6, quality=pattern) for pattern in patterns]


def many(*patterns):
    """Enough of them."""
    return lambda since_s: [seen(400, quality=pattern) for pattern in patterns]


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
