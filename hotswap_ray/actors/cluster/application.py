"""One model application under a deadline: wait for it, ask it, end it.

Serve itself waits without limits, and a call to replicas that vanished never returns.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from hotswap_ray.actors.cluster.fleet import GONE, AppState, Fleet
from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.core.errors import EngineError, EngineLoadFailed, EngineTimeout
from hotswap_ray.core.spec.task import ModelSpec

POLL_S = 0.1  # a status call of Serve costs tens of milliseconds of CPU
STOP_S = 30.0
DELETE_S = 120.0


async def state_of(fleet: Fleet, generation: Generation) -> AppState:
    """Its application as Serve sees it."""
    return (await fleet.states()).get(generation.app, AppState())


async def until_running(fleet: Fleet, spec: ModelSpec, generation: Generation) -> None:
    """Wait until enough replicas of a generation run.

    Raises:
        EngineLoadFailed: It gave up, or ``load_timeout_s`` ran out.
    """
    deadline = time.monotonic() + spec.load_timeout_s
    while True:
        state = await state_of(fleet, generation)
        if state.running >= spec.resources.min_replicas:
            return
        if state.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise EngineLoadFailed(f"model {spec.id!r} did not load: {state.message}")
        if time.monotonic() >= deadline:
            raise EngineLoadFailed(
                f"model {spec.id!r} was not ready after {spec.load_timeout_s:g} s "
                f"(load_timeout_s); Serve says {state.status}"
            )
        await asyncio.sleep(POLL_S)


async def ask(fleet: Fleet, generation: Generation, method: str, limit_s: float) -> Any:
    """Call a replica's method.

    Raises:
        EngineTimeout: No answer within ``limit_s``.
        EngineUnavailable: It cannot be reached.
    """
    try:
        async with asyncio.timeout(limit_s):
            return await fleet.call(generation.app, method)
    except TimeoutError:
        raise EngineTimeout(
            f"{generation.app} did not answer {method} within {limit_s:g} s"
        ) from None


async def end(fleet: Fleet, generation: Generation) -> None:
    """Delete an application and wait until it is gone; safe to repeat.

    Raises:
        EngineLoadFailed: It does not go.
    """
    state = await state_of(fleet, generation)
    if state.status == GONE:
        return
    if state.running:
        with suppress(EngineError):  # a dead replica has nothing left to release
            await ask(fleet, generation, "stop", STOP_S)
    await fleet.delete(generation.app)
    # After the drain no request is left, so Serve's grace period is not waited for.
    await fleet.kill_replicas(generation.app)
    deadline = time.monotonic() + DELETE_S
    while generation.app in await fleet.states():
        if time.monotonic() >= deadline:
            raise EngineLoadFailed(f"application {generation.app} does not end")
        await asyncio.sleep(POLL_S)
