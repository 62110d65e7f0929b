"""A check that hangs for ever, in the real judge of a running system."""

import asyncio

import orjson
import pytest
import ray

from hotswap_ray.actors.cluster.judge_watchdog import connect
from hotswap_ray.actors.cluster.names import JUDGE
from hotswap_ray.core.answers.judge_messages import Job, Judgement
from hotswap_ray.core.spec.golden import Check
from tests.ray.conftest import wait_until

pytestmark = pytest.mark.ray

PARIS = Check(kind="contains", value="Paris")


def job(text, *checks):
    body = orjson.dumps({"choices": [{"index": 0, "text": text}]})
    return Job(checks or (PARIS,), "completions", {"prompt": "Capital of France?"}, body)


def call(name):
    return Check(kind="callable", value=f"tests.ray.hanging_checks:{name}")


async def pid():
    """Process of the judge, once it answers."""
    actor = ray.get_actor(JUDGE, namespace="hotswap")
    return await actor.__ray_call__.remote(lambda _: __import__("os").getpid())


async def judged(jobs, spare_s):
    link = connect("hotswap", 2, spare_s=spare_s)
    before = await pid()
    verdicts = await link.judge(jobs)
    assert link.unjudged == sum(verdict.quality is None for verdict in verdicts)
    return verdicts, before != await pid()


@pytest.mark.parametrize(
    "check",
    [Check(kind="regex", value="(a+)+$"), call("loops")],
    ids=["regex", "loop"],
)
def test_a_check_that_hangs_is_interrupted_and_the_others_are_judged(system, check):
    jobs = [job("Paris"), job("a" * 60 + "b", check), job("Rome")]
    (first, hung, last), restarted = asyncio.run(judged(jobs, spare_s=60))
    assert (first, last) == (Judgement(1.0), Judgement(0.0))
    assert hung.quality is None
    assert hung.error.startswith("took longer than 2 s")
    assert check.value in hung.error
    assert not restarted


@pytest.mark.parametrize("name", ["clings", "leaves"])
def test_a_judge_that_nothing_else_can_help_is_started_anew_and_judges_the_others(system, name):
    jobs = [job("Paris"), job("x", call(name)), job("Rome")]
    (first, lost, last), restarted = asyncio.run(judged(jobs, spare_s=3))
    assert (first, last) == (Judgement(1.0), Judgement(0.0))
    assert lost.quality is None
    assert name in lost.error
    assert restarted


def test_a_judge_that_was_killed_is_back_for_the_next_answer(system):
    ray.kill(ray.get_actor(JUDGE, namespace="hotswap"), no_restart=False)

    def is_judged():
        return asyncio.run(connect("hotswap", 2).judge([job("Paris")])) == [Judgement(1.0)]

    assert wait_until(is_judged, what="judged")


def test_the_form_of_an_answer_is_judged_where_the_client_asked_for_one(system):
    system.load("formal", answer='{"city": "Paris"}')
    named = {"metadata": {"task_type": "alpha"}}
    asked = {**named, "response_format": {"type": "json_object"}}
    for body in (asked, {**asked, "stream": True}, named):
        for model in ("formal", "a"):
            assert system.chat(model, **body).status_code == 200

    def forms(model):
        found = system.learning("outcomes", "alpha", model)
        found = found[found["decision"] == "pinned"].tail(3)
        return found["format_ok"].tolist()

    wait_until(lambda: forms("formal") == [True, True, None], what="formal is judged")
    wait_until(lambda: forms("a") == [False, False, None], what="a is judged")
