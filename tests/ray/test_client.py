"""Arbiter against a real Ray: from a driver, a task, an actor, and with a loop running."""

import asyncio
import threading

import pandas as pd
import pytest
import ray

from hotswap_ray import Arbiter
from hotswap_ray.actors.cluster.names import CONTROLLER
from hotswap_ray.core.errors import (
    ClusterUnavailable,
    ConfigError,
    Conflict,
    EngineLoadFailed,
    EngineTimeout,
    Incompatible,
    InvalidRequest,
    NotFound,
    NothingToRollBack,
    SwapError,
)
from tests.ray.conftest import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def arbiter(system):
    handle = Arbiter.connect()
    yield handle
    handle.close()
    assert ray.is_initialized(), "close() may only disconnect what connect() connected"


def simulated(**changes):
    return {"engine": "simulated", "resources": {"num_cpus": 0}, **changes}


def test_a_prompt_is_answered_by_the_default_task(arbiter):
    result = arbiter.execute_task("hello")
    assert (result.model, result.task, result.decision) == ("a", "alpha", "active")
    assert result.text == result.answer["choices"][0]["text"]
    assert result.performance["latency_ms"] > 0
    assert result.performance["tokens_out"] == result.answer["usage"]["completion_tokens"]
    assert (result.swapped, result.swap_details) == (False, {})


def test_a_chat_names_its_task_by_criteria_or_metadata(arbiter):
    body = {"messages": [{"role": "user", "content": "hi"}]}
    by_criteria = arbiter.execute_task(body, {"task_type": "beta"})
    by_metadata = arbiter.execute_task({**body, "metadata": {"task_type": "gamma"}})
    assert (by_criteria.task, by_metadata.task) == ("beta", "gamma")
    assert by_criteria.text == by_criteria.answer["choices"][0]["message"]["content"]


def test_a_request_goes_to_a_loaded_model_that_meets_its_criteria(system, arbiter):
    arbiter.load("toolsmith", simulated(capabilities=["chat", "completions", "tools"]))
    result = arbiter.execute_task("x", {"required_capabilities": ["tools"]})
    assert (result.model, result.task, result.swapped) == ("toolsmith", "alpha", True)
    assert result.swap_details == {"reason": "a lacks capability tools"}
    assert system.serves("alpha") == "a"
    assert arbiter.execute_task("x", {"max_latency_ms": 60_000}).model == "a"
    assert arbiter.unload("toolsmith")["state"] == "unloaded"
    with pytest.raises(Incompatible, match="a lacks capability tools"):
        arbiter.execute_task("x", {"required_capabilities": ["tools"]})


@pytest.mark.parametrize(
    ("request_", "criteria", "kind"),
    [
        ("x", {"task_type": "none"}, NotFound),
        ("x", {"task_type": "none", "max_latency_ms": 5}, NotFound),
        ("x", {"speed": 5}, InvalidRequest),
        ({"prompt": "x", "model": "none"}, None, NotFound),
        ({"prompt": "x", "stream": True}, None, InvalidRequest),
        ({"messages": []}, None, InvalidRequest),
        ({}, None, InvalidRequest),
    ],
)
def test_a_request_that_cannot_be_served_raises_our_error(arbiter, request_, criteria, kind):
    with pytest.raises(kind) as raised:
        arbiter.execute_task(request_, criteria)
    assert type(raised.value) is kind  # not Ray's wrapper of it


def test_a_score_counts_once(arbiter):
    result = arbiter.execute_task("x", {"task_type": "beta"})
    told = arbiter.feedback(result.request_id, 0.75)
    assert told == {"request_id": result.request_id, "task": "beta", "model": result.model}
    assert arbiter.feedback(result.request_id, 0.75) == told
    with pytest.raises(Conflict):
        arbiter.feedback(result.request_id, 0.5)
    with pytest.raises(InvalidRequest):
        arbiter.feedback(result.request_id, 1.5)
    with pytest.raises(NotFound):
        arbiter.feedback("never-asked", 0.5)
    assert 0.75 in set(arbiter.outcomes("beta")["quality"].dropna())


def test_a_forced_swap_serves_when_it_returns_and_rolls_back(arbiter):
    record = arbiter.force_swap("beta", "b", swap_id="client-1")
    assert arbiter.execute_task("x", {"task_type": "beta"}).model == "b"
    assert arbiter.force_swap("beta", "b", swap_id="client-1")["swap_id"] == record["swap_id"]
    assert arbiter.wait("client-1")["phase"] == "succeeded"
    with pytest.raises(Conflict):
        arbiter.force_swap("beta", "b")
    assert arbiter.swap("client-1")["journal"][-1]["phase"] == "succeeded"
    assert arbiter.rollback("beta")["phase"] == "rolled_back"
    assert arbiter.execute_task("x", {"task_type": "beta"}).model == "a"
    with pytest.raises(NothingToRollBack):
        arbiter.rollback("beta")


def test_a_swap_that_fails_raises_and_the_old_model_serves_on(system, arbiter):
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        arbiter.load("bad", simulated(options={"sed": 1}))
    with pytest.raises(EngineLoadFailed):
        arbiter.load("bad", simulated(options={"fail_on_load": "raise"}))
    with pytest.raises(SwapError, match="did not load"):
        arbiter.force_swap("gamma", "bad")
    assert system.serves("gamma") == "a"


def test_a_swap_is_promoted_aborted_and_not_waited_for_for_ever(arbiter):
    record = arbiter.force_swap("gamma", "b", bake_s=600)
    with pytest.raises(EngineTimeout, match="is still"):
        arbiter.wait(record["swap_id"], timeout_s=0.1)
    assert arbiter.rollback_swap(record["swap_id"])["swap_id"] == record["swap_id"]
    assert arbiter.wait(record["swap_id"])["phase"] == "rolled_back"

    promoted = arbiter.force_swap("gamma", "b", bake_s=600)["swap_id"]
    wait_until(lambda: arbiter.swap(promoted)["phase"] == "baking")
    arbiter.promote(promoted)
    assert arbiter.wait(promoted)["phase"] == "succeeded"
    arbiter.rollback("gamma")

    arbiter.load("slow", simulated(options={"seed": 4}))
    arbiter.unload("slow")
    aborted = arbiter.force_swap("gamma", "slow", wait=False)["swap_id"]
    arbiter.abort(aborted)
    assert arbiter.wait(aborted)["phase"] == "failed"


def test_models_sleep_and_wake(arbiter):
    arbiter.load("dozer", simulated(options={"can_sleep": True}))
    assert arbiter.sleep("dozer")["state"] == "asleep"
    assert arbiter.wake("dozer")["state"] == "ready"
    assert arbiter.unload("dozer")["state"] == "unloaded"


def test_compatibility_is_told_without_a_change(arbiter):
    assert arbiter.check_compatibility("delta", "b") == {"accepted": True, "gaps": []}


def test_what_happened_is_there_as_data_frames_and_counts(arbiter):
    before = arbiter.statistics()
    result = arbiter.execute_task("x", {"task_type": "delta"})
    arbiter.feedback(result.request_id, 1.0)
    after = arbiter.statistics()
    assert after["requests"] > before["requests"]
    assert set(after["swap_stats"]) == {
        "total_swaps",
        "successful_swaps",
        "failed",
        "rolled_back",
        "open",
    }
    learnings, outcomes, swaps = arbiter.learnings(), arbiter.outcomes("delta"), arbiter.swaps()
    assert all(isinstance(frame, pd.DataFrame) for frame in (learnings, outcomes, swaps))
    assert "delta" in set(learnings["task"])
    assert set(outcomes["task"]) == {"delta"}
    assert {"swap_id", "phase", "seconds"} <= set(swaps.columns)
    row = arbiter.task_performance_summary("delta")["models"][0]
    assert row["model"] == "a"


def test_learnings_go_to_a_file_and_come_back(arbiter, tmp_path):
    arbiter.record_task_performance("reported", 12.5, quality=0.5)
    arbiter.learn_task_characteristics("reported", {"latency": 2}, "high")
    lines = arbiter.export_learnings(tmp_path / "learnings.jsonl")
    assert len((tmp_path / "learnings.jsonl").read_text().splitlines()) == lines > 0
    arbiter.import_learnings(tmp_path / "learnings.jsonl")
    known = arbiter.task_performance_summary("reported")
    assert (known["complexity"], known["preferences"]["latency"]) == ("high", 2)
    with pytest.raises(InvalidRequest):
        arbiter.import_learnings(tmp_path / "none.jsonl")
    with pytest.raises(InvalidRequest, match="preferences: speed"):
        arbiter.learn_task_characteristics("reported", {"speed": 2})


def test_events_are_followed_from_an_id_on(arbiter):
    first = next(arbiter.events())
    assert next(arbiter.events(first["id"]))["id"] > first["id"]
    assert {"id", "kind", "at_s", "doc"} == set(first)


def test_ready_is_waited_for(arbiter):
    assert arbiter.wait_until_ready(5)["tasks"]["alpha"]["generation"]


def test_a_killed_controller_is_waited_for(system, arbiter):
    ray.kill(ray.get_actor(CONTROLLER, namespace="hotswap"), no_restart=False)
    assert arbiter.status()["tasks"]["alpha"]["model"] == "a"


def test_it_works_inside_a_task_and_an_actor(system):
    @ray.remote(num_cpus=0)
    def task():
        with Arbiter.connect() as inner:
            return inner.execute_task("x", {"task_type": "delta"}).model

    @ray.remote(num_cpus=0)
    class Worker:
        def __init__(self):
            self.arbiter = Arbiter.connect()

        async def ask_with_a_loop_running(self):
            return self.arbiter.execute_task("x").model

    worker = Worker.remote()
    assert ray.get([task.remote(), worker.ask_with_a_loop_running.remote()], timeout=60) == [
        "a",
        "a",
    ]


async def test_it_works_where_a_loop_is_running_and_from_many_threads(arbiter):
    assert arbiter.execute_task("x").model == "a"
    results = await asyncio.gather(
        *(asyncio.to_thread(arbiter.execute_task, "x") for _ in range(16))
    )
    assert {result.model for result in results} == {"a"}


def test_a_namespace_without_hotswap_is_told(system):
    threads = threading.active_count()
    with pytest.raises(ClusterUnavailable, match="runs no hotswap_ray in namespace 'elsewhere'"):
        Arbiter.connect(namespace="elsewhere")
    assert threading.active_count() == threads
