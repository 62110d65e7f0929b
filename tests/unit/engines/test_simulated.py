"""The simulated engine does what its options say, the same way each time."""

import asyncio
import subprocess
import sys

import pytest

from hotswap_ray.core.errors import (
    ConfigError,
    EngineError,
    EngineLoadFailed,
    EngineUnavailable,
    InvalidRequest,
)
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import default_deployment_options
from hotswap_ray.engines.simulated import WRONG, SimulatedEngine
from hotswap_ray.testing import body_of, text_of


async def started(**options):
    engine = SimulatedEngine(ModelSpec(id="s", engine="simulated", options=options))
    await engine.start()
    return engine


async def answer_to(engine, prompt):
    return text_of(await engine.generate("completions", {"prompt": prompt, "max_tokens": 50}))


async def test_it_never_says_that_it_is_a_model():
    engine = await started()
    whole = await engine.generate("completions", body_of("completions"))
    chunks = [chunk async for chunk in engine.stream("completions", body_of("completions"))]
    assert all(answer["system_fingerprint"] == "simulated" for answer in [whole, *chunks])


async def test_the_question_at_the_end_of_a_few_shot_prompt_is_the_one_answered():
    engine = await started(knows={"Spain is": "Madrid", "France is": "Paris"})
    assert await answer_to(engine, "Spain is Madrid\nFrance is") == "Paris"
    assert await answer_to(engine, "France is Paris\nSpain is") == "Madrid"


async def test_accuracy_is_the_share_of_prompts_answered_rightly_and_repeats():
    prompts = [f"question {number}" for number in range(400)]
    answers = []
    for _ in range(2):
        engine = await started(accuracy=0.7, seed=3, answer="right")
        answers.append([await answer_to(engine, prompt) for prompt in prompts])
    assert answers[0] == answers[1]
    assert set(answers[0]) == {"right", WRONG}
    assert 0.6 < answers[0].count("right") / 400 < 0.8


async def test_the_answer_can_name_the_model_and_the_prompt():
    engine = await started(answer="{model} heard {prompt}")
    assert await answer_to(engine, "hello") == "s heard hello"


@pytest.mark.parametrize(("limit", "words", "reason"), [(3, 3, "length"), (50, 20, "stop")])
async def test_the_answer_has_the_length_asked_for_unless_cut(limit, words, reason):
    engine = await started(tokens=20)
    whole = await engine.generate("completions", body_of("completions", max_tokens=limit))
    assert len(text_of(whole).split()) == words == whole["usage"]["completion_tokens"]
    assert whole["choices"][0]["finish_reason"] == reason


async def test_the_failure_rate_is_kept_and_repeats_with_the_seed():
    async def failures(seed):
        engine = await started(failure_rate=0.3, seed=seed)
        failed = []
        for number in range(300):
            try:
                await engine.generate("completions", body_of("completions"))
            except EngineError:
                failed.append(number)
        return failed

    first = await failures(1)
    assert first == await failures(1)
    assert first != await failures(2)
    assert 60 < len(first) < 120


async def test_a_stream_can_fail_after_some_tokens():
    engine = await started(tokens=10, failure_rate=1, failure_at_token=4)
    stream = engine.stream("completions", body_of("completions", max_tokens=10))
    for _ in range(4):
        await anext(stream)
    with pytest.raises(EngineError):
        await anext(stream)
    assert engine.in_flight == 0


async def test_capacity_bounds_the_requests_worked_on():
    engine = await started(capacity=2, ttft_ms=20)
    tasks = [
        asyncio.create_task(engine.generate("completions", body_of("completions")))
        for _ in range(6)
    ]
    most = 0
    while not all(task.done() for task in tasks):
        most = max(most, engine.in_flight)
        await asyncio.wait(tasks, timeout=0.002)
    assert most == 2


async def test_loading_can_fail():
    engine = SimulatedEngine(
        ModelSpec(id="s", engine="simulated", options={"fail_on_load": "raise"})
    )
    with pytest.raises(EngineLoadFailed):
        await engine.start()
    with pytest.raises(EngineUnavailable):
        await engine.generate("completions", body_of("completions"))


async def test_loading_can_hang():
    engine = SimulatedEngine(
        ModelSpec(id="s", engine="simulated", options={"fail_on_load": "hang"})
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(engine.start(), 0.05)


def test_loading_can_kill_the_process():
    code = (
        "import asyncio; from hotswap_ray.core.spec.task import ModelSpec; "
        "from hotswap_ray.engines.simulated import SimulatedEngine as E; "
        "asyncio.run(E(ModelSpec(id='s', engine='simulated', "
        "options={'fail_on_load': 'exit'})).start()); print('alive')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")


async def test_memory_falls_in_sleep():
    engine = await started(memory_bytes=1000)
    await engine.sleep()
    assert engine.memory_bytes() == 100
    await engine.wake()
    assert engine.memory_bytes() == 1000


def test_an_unknown_option_is_refused_with_the_closest_name():
    with pytest.raises(ConfigError, match="did you mean 'ttft_ms'"):
        SimulatedEngine(ModelSpec(id="s", engine="simulated", options={"tfft_ms": 1}))


@pytest.mark.parametrize("messages", [None, [], "text", [{"content": "no role"}]])
async def test_messages_that_are_none_are_refused(messages):
    engine = await started()
    with pytest.raises(InvalidRequest):
        await engine.generate("chat/completions", {"messages": messages})


def test_the_resources_of_a_model_become_options_of_its_ray_actor():
    spec = ModelSpec(
        id="m",
        engine="simulated",
        resources={"num_cpus": 2, "num_gpus": 1, "accelerator_type": "L4", "memory_bytes": 9},
    )
    assert default_deployment_options(spec) == {
        "ray_actor_options": {
            "num_cpus": 2,
            "num_gpus": 1,
            "accelerator_type": "L4",
            "memory": 9,
        }
    }
