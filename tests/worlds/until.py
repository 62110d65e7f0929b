"""Tests wait for what must come, and never for a time."""

import asyncio


async def until(condition, within_s=30):
    """Let the loop run until a condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)
