"""What a swap would do is told by the code that would do it, and nothing is changed."""

import asyncio

import httpx
import pytest

from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import InvalidRequest, NotFound, StoreError
from hotswap_ray.core.fit.room import Room
from hotswap_ray.web.admin.api import AdminApi
from hotswap_ray.web.openai_api import OpenAIApi
from tests.worlds.admin import TaskLearnings
from tests.worlds.controller import make_config, make_world
from tests.worlds.fakes import MIB

ALONE = {"t": {"model": "a"}}


def everything(world):
    """What there is, in the cluster and in the store."""
    saved = (world.store.load_table(), world.store.load_generations(), world.store.load_swaps())
    return world.table, world.loaded(), list(world.fleet.log), saved


async def plan(world, model="b", **options):
    """A dry run; afterwards nothing is different."""
    before = everything(world)
    made = await world.controller.swap("t", model, dry_run=True, **options)
    assert everything(world) == before
    return made


def codes(made):
    return [row["code"] for row in made["refusals"]]


async def test_a_swap_that_would_be_tried_tells_its_way(tmp_path):
    world = await make_world(tmp_path)
    made = await plan(world, bake_s=7, canary="5,25")
    assert made["accepted"]
    assert made["refusals"] == []
    assert (made["from_model"], made["to_model"], made["bake_s"]) == ("a", "b", 7)
    assert (made["strategy"], made["reason"]) == ("overlap", "both models fit side by side")
    assert made["canary"] == [0.05, 0.25]
    assert made["room"]["need"]["cpus"] <= made["room"]["free"]["cpus"]
    assert made["prediction"]["model"] == "b"
    assert made["load_s"] == made["prediction"]["load_s"]


async def test_an_earlier_load_is_what_the_next_is_expected_to_take(tmp_path):
    world = await make_world(tmp_path)
    world.fleet.scripts["b"].load_s = 0.05
    await world.controller.load("b")
    await world.controller.unload("b")
    await world.controller.load("b")
    loaded = await plan(world)
    assert (loaded["reason"], loaded["load_s"]["mid"]) == ("the candidate is loaded already", 0)
    assert loaded["room"]["need"]["cpus"] == 0


async def test_the_strategy_is_the_one_that_the_swap_then_takes(tmp_path):
    world = await make_world(tmp_path, make_config(tasks=ALONE), Room(1, 0, 9000 * MIB))
    made = await plan(world)
    record = await world.swap("t", "b")
    assert made["strategy"] == record["strategy"] == "drain_first"
    assert made["reason"].partition("(")[0] == record["reason"].partition("(")[0]


async def test_gaps_refuse_or_are_only_told(tmp_path):
    config = make_config(
        {"a": {"capabilities": ["chat", "tools"]}, "b": {"capabilities": ["chat"]}}, tasks=ALONE
    )
    world = await make_world(tmp_path, config)
    strict, warned = await plan(world), await plan(world, compatibility="warn")
    assert (strict["accepted"], codes(strict)) == (False, ["incompatible"])
    assert (warned["accepted"], codes(warned)) == (True, [])
    assert strict["gaps"] == warned["gaps"]
    assert "tools" in strict["gaps"][0]


async def test_no_room_is_told_at_once_with_what_is_missing(tmp_path):
    big = {"resources": {"num_cpus": 64}}
    world = await make_world(tmp_path, make_config({"b": big}, tasks=ALONE, load_wait_s=600))
    async with asyncio.timeout(5):
        made = await plan(world)
    assert (made["accepted"], made["strategy"]) == (False, None)
    assert codes(made) == ["insufficient_resources"]
    assert "CPUs: 64 needed" in made["refusals"][0]["message"]


async def test_every_reason_against_it_is_told_together(tmp_path):
    big = {"resources": {"num_cpus": 64}, "capabilities": ["chat"]}
    world = await make_world(tmp_path, make_config({"b": big}, tasks=ALONE))
    assert codes(await plan(world, if_match="x")) == [
        "precondition_failed",
        "incompatible",
        "insufficient_resources",
    ]
    assert codes(await plan(world, "a")) == ["conflict"]


async def test_an_open_swap_would_refuse_it_and_its_own_id_finds_it(tmp_path):
    world = await make_world(tmp_path)
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    other = await world.controller.swap("t", "c", dry_run=True)
    same = await world.controller.swap("t", "b", swap_id, dry_run=True)
    assert (other["accepted"], codes(other)) == (False, ["conflict"])
    assert (same["accepted"], same["exists"]) == (True, True)


async def test_without_learnings_there_is_a_plan_and_no_prediction(tmp_path):
    world = await make_world(tmp_path)
    world.learning.error = StoreError("away")
    made = await plan(world)
    assert (made["accepted"], made["prediction"], made["load_s"]) == (True, None, None)


async def test_what_makes_no_sense_is_refused_as_the_swap_would_be(tmp_path):
    world = await make_world(tmp_path)
    with pytest.raises(NotFound, match="unknown model 'bb'"):
        await plan(world, "bb")
    with pytest.raises(InvalidRequest, match="bake_s"):
        await plan(world, bake_s=-1)


async def test_over_http_a_dry_run_changes_nothing_and_waits_for_nothing(tmp_path):
    world = await make_world(tmp_path)
    server = ServerConfig()
    app = OpenAIApi(server, None, None, AdminApi(server, world.controller, TaskLearnings()))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x/admin/") as client:
        body = {"model": "b", "dry_run": True, "wait_s": 60}
        answer = await client.post("tasks/t/swap", json=body)
    assert (answer.status_code, answer.json()["accepted"]) == (200, True)
    assert "etag" not in answer.headers
    assert await world.controller.swaps() == []
