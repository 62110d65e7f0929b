"""Two operators at once, swaps that are tried again, and events that end."""

import asyncio

import httpx
import pytest

from hotswap_ray.actors.controller.swaps.runner import SwapRunner
from hotswap_ray.client import events as client_events
from hotswap_ray.client.events import Events
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import (
    Conflict,
    EngineUnavailable,
    IllegalTransition,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
)
from hotswap_ray.core.swap.phases import Phase, Swap
from hotswap_ray.web.admin.api import AdminApi
from hotswap_ray.web.openai_api import OpenAIApi
from tests.worlds.admin import Listener, RecordingController, TaskLearnings, swap_event
from tests.worlds.controller import make_world


@pytest.fixture
async def world(tmp_path):
    made = await make_world(tmp_path)
    yield made
    assert made.fleet.harm == []


async def baking(world):
    """A swap that bakes, and its record as an operator saw it."""
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    return swap_id, await world.controller.wait(swap_id, 0)


def test_an_etag_changes_with_phase_step_and_pause_and_not_with_what_is_measured():
    swap = Swap("s1", "t", "a", 1, "b", phase=Phase.CANARY, updated_at_s=5.0)
    first = swap.with_facts(canary={"step": 1, "requests": 3})
    others = [
        swap.with_facts(canary={"step": 2, "requests": 3}),
        first.with_facts(paused="by operator"),
        Swap("s1", "t", "a", 1, "b", phase=Phase.SWITCHING, updated_at_s=5.0),
        Swap("s1", "t", "a", 1, "b", phase=Phase.CANARY, updated_at_s=6.0),
    ]
    assert first.with_facts(canary={"step": 1, "requests": 9}).etag == first.etag
    assert len({first.etag, *(one.etag for one in others)}) == 5
    assert Swap.from_doc(first.to_doc()) == first


async def test_of_two_operators_who_saw_the_same_one_acts_and_the_other_is_told(world):
    swap_id, seen = await baking(world)
    signal = world.controller.signal
    said = await asyncio.gather(
        signal(swap_id, "rollback", if_match=seen["etag"]),
        signal(swap_id, "promote", if_match=seen["etag"]),
        return_exceptions=True,
    )
    assert said[0]["phase"] == "rolling_back"
    assert isinstance(said[1], PreconditionFailed)
    assert (await world.controller.wait(swap_id, 10))["phase"] == "rolled_back"
    with pytest.raises(PreconditionFailed, match=rf"swap {swap_id} is rolled_back by now \(etag "):
        await signal(swap_id, "promote", if_match=seen["etag"])


async def test_a_phase_that_ends_before_the_event_is_acted_upon_refuses_it(world):
    world.fleet.scripts["b"].answer_s = 0.2
    swap_id = await world.swap_until("validating", "t", "b", bake_s=600)
    seen = await world.controller.wait(swap_id, 0)
    await world.in_phase(swap_id, "baking")
    with pytest.raises(PreconditionFailed, match="is baking by now"):
        await world.controller.signal(swap_id, "rollback", if_match=seen["etag"])
    assert (await world.controller.wait(swap_id, 0))["phase"] == "baking"


@pytest.mark.parametrize("moment", ["before the action ends", "as the action ends"])
async def test_an_event_that_was_queued_does_not_slip_into_the_next_phase(
    world, monkeypatch, moment
):
    """The operator speaks while a phase ends: the etag is compared when it counts."""
    found = []
    act = SwapRunner._act

    async def act_and_speak(runner, swap):
        done = await act(runner, swap)
        if swap.phase is Phase.VALIDATING and not found:
            found.append(
                asyncio.create_task(
                    world.controller.signal(swap.swap_id, "abort", if_match=swap.etag)
                )
            )
            if moment == "before the action ends":
                await asyncio.Event().wait()  # until the event ends it
        return done

    monkeypatch.setattr(SwapRunner, "_act", act_and_speak)
    record = await world.swap("t", "b")
    (said,) = await asyncio.gather(*found, return_exceptions=True)
    if moment == "before the action ends":
        assert isinstance(said, dict)
        assert record["phase"] == "failed"
    else:
        assert isinstance(said, PreconditionFailed)
        assert record["phase"] == "succeeded"


async def test_a_swap_and_a_rollback_are_begun_only_on_what_was_seen(world):
    with pytest.raises(PreconditionFailed, match="task 't' has had no swap"):
        await world.controller.swap("t", "b", if_match="*")
    first = await world.swap("t", "b")
    begun = await asyncio.gather(
        *(world.controller.swap("t", model, if_match=first["etag"]) for model in ("a", "c")),
        return_exceptions=True,
    )
    assert [type(one) for one in begun] == [dict, PreconditionFailed]
    await world.controller.wait(begun[0]["swap_id"], 10)
    with pytest.raises(PreconditionFailed, match="is succeeded by now"):
        await world.controller.rollback("t", if_match=first["etag"])
    (latest, *_) = await world.controller.swaps("t")
    undo = await world.controller.rollback("t", if_match=f'"x", "{latest["etag"]}"')
    assert (await world.controller.wait(undo["swap_id"], 10))["phase"] == "rolled_back"
    assert world.model_of("t") == "b"


async def test_a_condition_survives_the_controller_that_gave_the_etag(world):
    first = await world.swap("t", "b")
    await world.start()
    record = await world.controller.swap("t", "a", if_match=first["etag"])
    assert (await world.controller.wait(record["swap_id"], 10))["phase"] == "succeeded"


async def test_asking_again_with_the_same_id_is_no_conflict_with_the_old_etag(world):
    first = await world.swap("t", "b")
    options = {"swap_id": "again", "if_match": first["etag"]}
    await world.swap("t", "a", **options)
    assert (await world.controller.swap("t", "a", **options))["phase"] == "succeeded"


async def test_a_failed_swap_is_tried_again_with_its_settings(world):
    world.fleet.scripts["b"].load = "raise"
    settings = {"bake_s": 0.0, "strategy": "overlap", "compatibility": "warn", "canary": None}
    failed = await world.swap("t", "b", swap_id="s1", **settings)
    assert failed["phase"] == "failed"
    again = await world.controller.retry("s1")
    assert (again["swap_id"], again["facts"]["retries"]) == ("s1-r1", "s1")
    assert (await world.controller.wait("s1-r1", 10))["phase"] == "failed"
    world.fleet.scripts["b"].load = "ok"
    assert (await world.controller.retry("s1", attempt=1))["phase"] == "failed"  # as it was
    both = await asyncio.gather(world.controller.retry("s1"), world.controller.retry("s1-r1"))
    assert [record["swap_id"] for record in both] == ["s1-r2", "s1-r2"]
    done = await world.controller.wait("s1-r2", 10)
    assert done["phase"] == "succeeded"
    kept = {key: done["facts"][key] for key in ("strategy", "compatibility")}
    assert kept == {"strategy": "overlap", "compatibility": "warn"}
    assert (await world.controller.retry("s1"))["swap_id"] == "s1-r2"


async def test_only_what_failed_can_be_tried_again(world):
    done = await world.swap("t", "b")
    with pytest.raises(IllegalTransition, match="is succeeded; only one that failed"):
        await world.controller.retry(done["swap_id"])
    undo = await world.controller.rollback("t")
    await world.controller.wait(undo["swap_id"], 10)
    with pytest.raises(IllegalTransition, match="and no rollback"):
        await world.controller.retry(undo["swap_id"])
    with pytest.raises(NotFound):
        await world.controller.retry("nobody")


async def test_a_long_id_can_be_tried_again_and_another_open_swap_is_a_conflict(world):
    long = "n" * 63
    world.fleet.scripts["b"].load = "raise"
    await world.swap("t", "b", swap_id=long)
    again = await world.controller.retry(long)
    assert len(again["swap_id"]) <= 63
    await world.controller.wait(again["swap_id"], 10)
    await world.swap_until("baking", "t", "c", bake_s=600)
    with pytest.raises(Conflict, match="is baking"):
        await world.controller.retry(long)


# --- over HTTP --------------------------------------------------------------------------


@pytest.fixture
async def http(world):
    server = ServerConfig()
    app = OpenAIApi(server, None, None, AdminApi(server, world.controller, TaskLearnings()))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x/admin/") as client:
        yield client


async def test_over_http_the_etag_is_a_header_and_a_stale_one_gets_412(http, world):
    begun = await http.post("tasks/t/swap", json={"model": "b", "bake_s": 600})
    swap_id = begun.json()["swap_id"]
    await world.in_phase(swap_id, "baking")
    seen = await http.get(f"swaps/{swap_id}")
    assert seen.headers["etag"] == f'"{seen.json()["etag"]}"' != begun.headers["etag"]
    stale = await http.post(
        f"swaps/{swap_id}/rollback", headers={"If-Match": begun.headers["etag"]}
    )
    assert (stale.status_code, stale.json()["error"]["code"]) == (412, "precondition_failed")
    assert "is baking by now" in stale.json()["error"]["message"]
    done = await http.post(f"swaps/{swap_id}/rollback", headers={"If-Match": seen.headers["etag"]})
    assert (done.status_code, done.json()["phase"]) == (200, "rolling_back")
    await world.controller.wait(swap_id, 10)
    await world.until(lambda: not world.controller._runner._tasks)  # b is unloaded after it
    again = await http.post(f"swaps/{swap_id}/retry", json={"attempt": 1, "wait_s": 10})
    assert again.json()["swap_id"] == f"{swap_id}-r1"
    assert again.json()["phase"] in ("draining", "baking")
    bad = await http.post(f"swaps/{swap_id}/retry", json={"attempt": 0})
    assert bad.status_code == 400


async def test_the_event_stream_takes_kinds_and_a_swap():
    controller = RecordingController()
    other = {"id": 2, "kind": "webhook_failed", "at_s": 1.0, "doc": {"swap_id": "s1"}}
    mine = {"id": 3, "kind": "swap", "at_s": 1.0, "doc": {"swap_id": "s1"}}
    controller.log = [swap_event(1), other, mine]
    for query, ids in ((b"kinds=swap", [1, 3]), (b"swap_id=s1", [2, 3]), (b"kinds=a,b", [])):
        listener = Listener(controller, query)
        await listener.next()
        body = (await listener.next())["body"].decode()
        found = [int(line[4:]) for line in body.splitlines() if line.startswith("id: ")]
        assert found == ids
        await listener.leave()


# --- as an iterator ---------------------------------------------------------------------


class Link:
    """A controller that runs out of answers only by itself; errors come in between."""

    def __init__(self, phases, errors=()):
        self.log = []
        self.phases = list(phases)
        self.errors = list(errors)

    def controller(self, method, *args):
        if method == "wait":
            swap_id = args[0]
            if swap_id != "s1":
                raise NotFound(f"unknown swap {swap_id!r}")
            phase = self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]
            doc = {"swap_id": "s1", "phase": phase}
            if not self.log or self.log[-1]["doc"] != doc:
                self.log.append({"id": len(self.log) + 1, "kind": "swap", "at_s": 0, "doc": doc})
            return doc
        if self.errors:
            raise self.errors.pop(0)
        return [event for event in self.log if event["id"] > args[0]]


def watch(link, **options):
    made = Events()
    made._link = link
    return made.events(poll_s=0.001, **options)


def phases(events):
    return [event["doc"]["phase"] for event in events]


def test_events_of_a_swap_end_with_it():
    link = Link(["loading", "baking", "succeeded"])
    assert phases(watch(link, swap_id="s1")) == ["loading", "baking", "succeeded"]


def test_events_end_when_the_model_serves_if_that_is_what_was_asked_for():
    link = Link(["loading", "loading", "baking", "succeeded"])
    assert phases(watch(link, swap_id="s1", until="switched")) == ["loading", "baking"]


def test_events_of_a_swap_that_ended_long_ago_end_at_once():
    assert phases(watch(Link(["failed"]), swap_id="s1", kinds=["autoswap"])) == []
    assert phases(watch(Link(["failed"]), swap_id="s1", after_id=1)) == []


def test_events_end_in_time_when_nothing_happens():
    assert phases(watch(Link(["loading"]), swap_id="s1", timeout_s=0.05)) == ["loading"]


def test_events_go_on_when_the_controller_was_away(monkeypatch):
    monkeypatch.setattr(client_events, "AWAY_S", 0.001)
    link = Link(["loading", "baking", "succeeded"], [EngineUnavailable("away")] * 3)
    assert phases(watch(link, swap_id="s1", timeout_s=10))[-1] == "succeeded"
    with pytest.raises(EngineUnavailable):
        list(watch(Link(["loading"], [EngineUnavailable("away")]), swap_id="s1"))


def test_a_watch_that_makes_no_sense_is_refused_at_once():
    with pytest.raises(InvalidRequest, match="until needs the swap_id"):
        watch(Link(["loading"]), until="end")
    with pytest.raises(InvalidRequest, match="kinds is a list"):
        watch(Link(["loading"]), kinds="swap")
    with pytest.raises(NotFound):
        watch(Link(["loading"]), swap_id="s2")
