"""Ingress replicas hear at once whom the others drew for a conversation."""

import asyncio

from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.core.routing.draws import UNREAD
from hotswap_ray.store import Store


async def test_a_draw_is_heard_as_soon_as_it_is_told(tmp_path):
    actor = LearningActor(Store(f"sqlite:///{tmp_path}/s.sqlite"))
    listening = asyncio.create_task(actor.hear_draws(UNREAD, 30))
    await asyncio.sleep(0)
    await actor.tell_draws([(7, "b")])
    async with asyncio.timeout(5):
        place, draws = await listening
    assert draws == [(7, "b")]
    assert await actor.hear_draws(place, 0.01) == (place, [])
