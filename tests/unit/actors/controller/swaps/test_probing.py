"""Probes of a loaded model: through a cluster in memory, in a swap, and as people ask for them."""

import asyncio
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.controller.swaps.probing import AT_ONCE, Probing
from hotswap_ray.actors.replica.replica import ModelReplica
from hotswap_ray.cli import app, output
from hotswap_ray.client.analytics import Analytics
from hotswap_ray.core.errors import Conflict, EngineUnavailable, InvalidRequest, NotFound
from hotswap_ray.core.fit.probes import PROBES
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.store import Store
from tests.worlds.controller import ControllerWorld, make_config
from tests.worlds.fakes import FakeFleet
from tests.worlds.link import LocalLink
from tests.worlds.store import ScriptedStore

EVERYTHING = ("chat", "completions", "tools", "json", "reasoning")


class RealFleet(FakeFleet):
    """Applications whose answers come from real replicas of simulated engines."""

    def __init__(self, total=None):
        super().__init__(total)
        self.replicas = {}
        self.asked = []
        self.at_once = self.most_at_once = 0
        self.hold = None

    async def call(self, app, method, *args):
        if method not in ("generate", "frames"):
            return await super().call(app, method, *args)
        self.asked.append(args[1])
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.hold is not None:
                await self.hold.wait()
            found = self.apps[app]
            if app not in self.replicas:
                replica = ModelReplica.__new__(ModelReplica)
                await replica.__init__(found.spec.model_dump(mode="json"), found.generation)
                self.replicas[app] = replica
            return await getattr(self.replicas[app], method)(*args)
        finally:
            self.at_once -= 1


def simulated(*capabilities, **options):
    return {
        "engine": "simulated",
        "capabilities": capabilities or ("chat", "completions"),
        "options": {"answer": "this is right", **options},
    }


@pytest.fixture
def fleet():
    return RealFleet()


@pytest.fixture
def store(tmp_path):
    return Store(f"sqlite:///{tmp_path}/probes.sqlite")


async def probed(fleet, store, spec, names=PROBES, limit_s=5, generation=1, context_tokens=512):
    model = ModelSpec(id="b", **spec)
    await fleet.deploy(model, generation, 0)
    probing = Probing(fleet, store, limit_s)
    found = await probing.probe(model, Generation("b", generation), names, context_tokens)
    return {name: probe.supported for name, probe in found.probes.items()}, found


async def test_a_model_that_can_do_everything_is_seen_to(fleet, store):
    found, report = await probed(fleet, store, simulated(*EVERYTHING))
    assert found == dict.fromkeys(PROBES, True), report
    assert fleet.most_at_once <= AT_ONCE


@pytest.mark.parametrize("name", PROBES)
async def test_what_a_model_lacks_is_seen_whatever_it_declares(fleet, store, name):
    spec = {**simulated(*EVERYTHING, lacks=[name]), "context_tokens": 512}
    found, report = await probed(fleet, store, spec)
    assert found[name] is False, report
    without_chat = {"chat", "tools", "json", "reasoning"} if name == "chat" else {name}
    without = without_chat | (
        {"stop", "stream_usage", "context"} if name == "completions" else set()
    )
    assert {other for other, can in found.items() if can} == set(PROBES) - without


async def test_a_load_is_probed_once_and_another_load_again(fleet, store):
    first, _ = await probed(fleet, store, simulated())
    asked = len(fleet.asked)
    assert (await probed(fleet, store, simulated()))[0] == first
    assert len(fleet.asked) == asked
    await probed(fleet, store, simulated(), ["context"], context_tokens=1024)
    assert len(fleet.asked) == asked + 3  # another length: the rest is known
    await probed(fleet, store, simulated(), ["stop"])
    assert len(fleet.asked) == asked + 3
    await probed(fleet, store, simulated(), ["stop"], generation=2)
    assert len(fleet.asked) == asked + 5


async def test_the_same_question_is_asked_once(fleet, store):
    await probed(fleet, store, simulated(), ["chat", "reasoning", "completions", "stop"])
    assert len(fleet.asked) == 3


async def test_what_takes_too_long_is_not_measured_and_tried_again(fleet, store):
    fleet.hold = asyncio.Event()
    found, report = await probed(fleet, store, simulated(), ["chat", "stop"], limit_s=0.05)
    assert found == {"chat": None, "stop": None}
    assert "0.05 s" in report.probes["chat"].detail
    fleet.hold.set()
    assert (await probed(fleet, store, simulated(), ["chat", "stop"]))[0]["stop"] is True


async def test_trouble_is_not_a_missing_capability(fleet, store):
    found, report = await probed(fleet, store, simulated(failure_rate=1))
    assert set(found.values()) == {None}
    assert "could not be asked" in report.probes["chat"].detail


class ChatOnly(RealFleet):
    """Before a server without /completions, and without the old name of a parameter."""

    async def call(self, app, method, *args):
        if method in ("generate", "frames"):
            endpoint, body = args
            if endpoint == "completions":
                raise InvalidRequest("b: not found (status 404 of the server)")
            if "max_tokens" in body:
                raise InvalidRequest("use max_completion_tokens in the place of max_tokens")
        return await super().call(app, method, *args)


async def test_a_server_is_asked_at_the_endpoint_and_in_the_words_that_it_has(store):
    found, report = await probed(ChatOnly(), store, simulated(*EVERYTHING))
    assert {name for name, can in found.items() if not can} == {"completions"}, report


async def test_an_answer_of_no_known_shape_is_not_measured(store):
    class Odd(FakeFleet):
        async def call(self, app, method, *args):
            return b'data: ["x"]\n\n' if method == "frames" else (b'{"choices": 3}', 1, 1, 0)

    found, _ = await probed(Odd(), store, simulated())
    assert set(found.values()) == {None}


async def test_a_store_that_refuses_costs_only_a_repetition(fleet, tmp_path):
    store = ScriptedStore(f"sqlite:///{tmp_path}/s.sqlite")
    store.refuses = True
    assert (await probed(fleet, store, simulated(), ["stop"]))[0] == {"stop": True}


# --- in a swap ----------------------------------------------------------------------------


@pytest.fixture
async def world_of(tmp_path):
    async def made(candidate, requires=(), swap=(), **requirements):
        tasks = {
            "t": {
                "model": "a",
                "golden": [{"prompt": "say", "check": {"kind": "contains", "value": "right"}}],
                "requirements": {"capabilities": requires, **requirements},
            }
        }
        models = {"a": simulated(*EVERYTHING), "b": candidate}
        world = ControllerWorld(tmp_path, make_config(models, tasks, **dict(swap)))
        world.fleet, ingress = RealFleet(), world.fleet.ingress
        world.fleet.ingress = ingress
        await world.start()
        return world

    return made


async def test_a_swap_keeps_what_the_candidate_was_seen_to_do(world_of):
    world = await world_of(simulated(), swap={"compatibility": "warn"})
    record = await world.swap("t", "b")
    assert record["phase"] == "succeeded"
    assert record["facts"]["probes"] == dict.fromkeys(
        ("stop", "stream_usage", "chat", "completions"), True
    )
    assert record["facts"]["probes_ms"] < 500


@pytest.mark.parametrize("compatibility", ["strict", "warn"])
async def test_a_candidate_that_lacks_what_the_task_requires_never_serves(world_of, compatibility):
    lacking = simulated(*EVERYTHING, lacks=["tools"])
    world = await world_of(lacking, ("function_calling",), {"compatibility": compatibility})
    record = await world.swap("t", "b")
    assert record["phase"] == "failed"
    assert "incompatible: b may not serve t" in record["error"]
    assert "error: tools: needs tools, as the task requires" in record["error"]
    assert world.model_of("t") == "a"
    assert world.nothing_is_left_of("b")


async def test_a_context_that_is_shorter_than_declared_is_refused(world_of):
    candidate = {**simulated(*EVERYTHING, lacks=["context"]), "context_tokens": 2048}
    world = await world_of(candidate, context_tokens=2048)
    record = await world.swap("t", "b")
    assert "error: context: " in record["error"]
    assert "reads 1024 tokens of 2040" in record["error"]


@pytest.mark.parametrize(("compatibility", "phase"), [("strict", "failed"), ("warn", "succeeded")])
async def test_what_is_only_declared_refuses_in_strict_mode(world_of, compatibility, phase):
    lacking = simulated(*EVERYTHING, lacks=["json"])
    world = await world_of(lacking, swap={"compatibility": compatibility})
    record = await world.swap("t", "b")
    assert record["phase"] == phase
    if phase == "succeeded":
        (gap,) = record["facts"]["probe_gaps"]
        assert gap.startswith("warning: json: needs json, as it declares")


async def test_what_the_model_of_now_was_seen_to_have_is_told(world_of):
    world = await world_of(simulated(*EVERYTHING, lacks=["stop"]))
    await world.controller.probe("a")
    record = await world.swap("t", "b")
    assert record["phase"] == "succeeded"
    assert record["facts"]["probe_gaps"] == [
        "note: stop: needs stop, as a has, has a stop sequence is ignored"
    ]


async def test_probes_can_be_left_out(world_of):
    lacking = simulated(*EVERYTHING, lacks=["tools"])
    world = await world_of(lacking, ("tools",), {"probe": False})
    record = await world.swap("t", "b")
    assert record["phase"] == "succeeded"
    assert "probes" not in record["facts"]


async def test_a_model_that_cannot_be_asked_any_more_is_not_refused_for_it(world_of):
    world = await world_of(simulated(*EVERYTHING), ("tools",))
    call = world.fleet.call

    async def dies(app, method, *args):
        if method == "generate" and "tools" in args[1]:
            raise EngineUnavailable("gone for a moment")
        return await call(app, method, *args)

    world.fleet.call = dies
    record = await world.swap("t", "b")
    assert record["phase"] == "succeeded"
    assert record["facts"]["probes"]["tools"] is None


# --- as people ask ------------------------------------------------------------------------


async def test_people_see_what_is_declared_beside_what_is_probed(world_of, monkeypatch):
    world = await world_of(simulated("chat", "completions", "tool_use", lacks=["tools"]))

    @contextmanager
    def connected(address, namespace):
        yield Analytics(link)

    link = LocalLink(world)
    monkeypatch.setattr(output, "arbiter", connected)
    run = CliRunner().invoke
    refused = await asyncio.to_thread(run, app, ["models", "probe", "b"])
    assert isinstance(refused.exception, Conflict)
    assert "not loaded" in str(refused.exception)
    await world.controller.load("b")
    table = (await asyncio.to_thread(run, app, ["models", "probe", "b"])).output
    (row,) = [line.split("│") for line in table.splitlines() if "tools" in line]
    assert [cell.strip() for cell in row[1:5]] == [
        "tools", "yes", "no", "answers with text: 'this is right'",
    ]  # fmt: skip
    assert "b, generation 1" in table
    said = await world.controller.predict("t", "b")
    assert "warning: tools: needs tools, as it declares" in " ".join(said["gaps"])
    with pytest.raises(NotFound):
        await world.controller.probe("nobody")
