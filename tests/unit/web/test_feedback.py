"""The same score by HTTP and by Python is one score, whoever comes first."""

import httpx
import pytest

from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import Conflict
from hotswap_ray.web.openai_api import OpenAIApi
from tests.worlds.api import refused


def clock():
    """A little later than the outcomes, which are not deleted for their age."""
    return 1_700_000_500.0


@pytest.fixture
async def actor(store, outcome):
    made = LearningActor(store, clock=clock)
    await made.record([outcome(1)], "batch")
    return made


@pytest.fixture
async def http(actor):
    transport = httpx.ASGITransport(OpenAIApi(ServerConfig(), None, actor.feedback, None))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def by_http(http, score, **headers):
    body = {"request_id": "r1", "score": score}
    return await http.post("/v1/feedback", json=body, headers=headers)


async def scores(actor):
    (row,) = await actor.learnings()
    return row["quality"], row["quality_count"]


@pytest.mark.parametrize("score", [0.5, 1, 0, 0.1234567891])
async def test_a_score_by_http_and_again_by_python_counts_once(actor, http, score):
    assert (await by_http(http, score)).status_code == 200
    await actor.feedback("r1", score)
    assert await scores(actor) == (pytest.approx(score), 1)
    with pytest.raises(Conflict, match="scored already"):
        await actor.feedback("r1", 0.75)


@pytest.mark.parametrize("score", [0.5, 1, 0, 0.1234567891])
async def test_a_score_by_python_and_again_by_http_counts_once(actor, http, score):
    await actor.feedback("r1", score)
    assert (await by_http(http, score)).status_code == 200
    assert await scores(actor) == (pytest.approx(score), 1)
    refused(await by_http(http, 0.75), 409, "conflict", "scored already")


async def test_scores_that_differ_in_the_last_digits_are_two(actor, http):
    await actor.feedback("r1", 0.1234567)
    refused(await by_http(http, 0.1234568), 409, "conflict")


async def test_a_key_that_is_stated_is_the_only_one_that_counts(actor, http):
    await by_http(http, 0.5, **{"idempotency-key": "mine"})
    await actor.feedback("r1", 0.5, "mine")
    with pytest.raises(Conflict):
        await actor.feedback("r1", 0.5)


@pytest.mark.parametrize("kept", ["score 0.5", "r1=0.5"])
async def test_a_score_that_a_store_holds_from_before_is_known_again(store, actor, kept):
    await actor.feedback("r1", 0.5, kept)
    await actor.close()
    again = LearningActor(store, clock=clock)
    await again.feedback("r1", 0.5)
    assert await scores(again) == (0.5, 1)
    with pytest.raises(Conflict):
        await again.feedback("r1", 0.25)
