"""The golden prompts as a gate: what a check may say of an answer, and what follows."""

from __future__ import annotations

import orjson
import pytest

from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.controller.swaps.golden_check import validate
from hotswap_ray.core.answers.judge_messages import Judgement
from hotswap_ray.core.errors import ValidationFailed
from hotswap_ray.core.spec.task import TaskSpec

HERE = "tests.unit.actors.controller.swaps.test_golden_check"


def says_the_prompt(request, answer):
    return {"half": 0.5, "less": 0.49, "unknown": None}.get(answer, answer in request["prompt"])


def raises(request, answer):
    raise RuntimeError("broken")


class Echo:
    """A fleet whose model says the prompt's last word."""

    async def call(self, app, method, endpoint, body):
        text = body["prompt"].split()[-1]
        return (orjson.dumps({"choices": [{"index": 0, "text": text}]}), 1, 1, 0)


def task(*prompts, checker="says_the_prompt", **more):
    check = {"kind": "callable", "value": f"{HERE}:{checker}"}
    golden = [{"prompt": prompt, "check": check} for prompt in prompts]
    return TaskSpec.model_validate({"id": "t", "model": "a", "golden": golden, **more})


async def ask(spec, **more):
    facts = await validate(Echo(), spec, Generation("a", 1), 5, **more)
    return facts["golden"]


async def test_a_callable_gets_the_request_and_half_a_score_passes():
    assert await ask(task("say hello", "half")) == "2/2"
    with pytest.raises(ValidationFailed, match=r"passed 0 of 1 .* first wrong answer: 'less'"):
        await ask(task("less"))


async def test_an_answer_that_no_check_can_judge_counts_neither_way():
    assert await ask(task("say hello", "unknown", golden_min_pass=1)) == "1/1"
    with pytest.raises(ValidationFailed, match="no check of t could judge an answer of a"):
        await ask(task("unknown"))


async def test_a_check_that_fails_refuses_the_candidate_with_the_reason():
    with pytest.raises(ValidationFailed, match=r"cannot be judged: .*raises.*broken"):
        await ask(task("say hello", checker="raises"))


async def test_a_task_without_golden_prompts_takes_any_answer():
    assert await ask(task()) == "1/1"


async def test_answers_may_be_judged_elsewhere():
    async def elsewhere(jobs):
        return [Judgement(None, "the judge is down") for _ in jobs]

    with pytest.raises(ValidationFailed, match="cannot be judged: the judge is down"):
        await ask(task("say hello"), judge=elsewhere)
