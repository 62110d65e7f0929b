"""The golden prompts as a gate: what a check may say of an answer, and what follows."""

from __future__ import annotations

import orjson
import pytest

from hotswap_ray.actors.cluster.generation import Generation
from hotswap_ray.actors.controller.swaps.golden_check import validate
from hotswap_ray.core.answers.judge_messages import Judgement
from hotswap_ray.core.errors import InvalidRequest, ValidationFailed
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec

HERE = "tests.unit.actors.controller.swaps.test_golden_check"


def says_the_prompt(request, answer):
    return {"half": 0.5, "less": 0.49, "unknown": None}.get(answer, answer in request["prompt"])


def raises(request, answer):
    raise RuntimeError("broken")


class Echo:
    """A fleet whose model says the prompt's last word."""

    async def call(self, app, method, endpoint, body):
        return answered(endpoint, prompt_of(body).split()[-1])


def prompt_of(body):
    return body["prompt"] if "prompt" in body else body["messages"][-1]["content"]


def answered(endpoint, text, finish="stop", **message):
    said = {"text": text} if endpoint == "completions" else {"message": {"content": text}}
    if message:
        said["message"] |= message
    choice = {"index": 0, "finish_reason": finish, **said}
    return (orjson.dumps({"choices": [choice]}), 1, 1, 0)


class Server:
    """A fleet before a server that takes only some questions; others it refuses as servers do."""

    def __init__(self, refusal, text="right", **message):
        self.refusal = refusal
        self.text, self.message = text, message
        self.taken = []

    async def call(self, app, method, endpoint, body):
        if refusal := self.refusal(endpoint, body):
            raise InvalidRequest(refusal)
        self.taken.append((endpoint, body))
        return answered(endpoint, self.text, **self.message)


def no_refusal(endpoint, body):
    return None


def modern(endpoint, body):
    if "max_tokens" in body:
        return "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    return "only temperature 1 is supported" if body.get("temperature") == 0 else None


def chat_only(endpoint, body):
    return "not found (status 404 of the server)" if endpoint == "completions" else None


def served(**spec):
    return ModelSpec(id="a", engine="openai", **spec)


RIGHT = {"kind": "contains", "value": "right"}
PROMPT = {"prompt": "say right", "check": RIGHT}
TURNS = {"messages": [{"role": "user", "content": "say right"}], "check": RIGHT}


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


async def passed(server, spec, *golden):
    asked = TaskSpec.model_validate({"id": "t", "model": "a", "golden": golden})
    return (await validate(server, asked, Generation("a", 1), 5, spec=spec))["golden"]


@pytest.mark.parametrize("golden", [(), (PROMPT,), (TURNS,)])
async def test_what_a_server_refuses_by_name_is_asked_again_without_it(golden):
    server = Server(modern)
    assert await passed(server, served(), *golden) == "1/1"
    ((_, body),) = server.taken
    assert body["max_completion_tokens"] == (16 if golden else 4)
    assert {"max_tokens", "temperature"}.isdisjoint(body)


@pytest.mark.parametrize("capabilities", [("chat",), ("chat", "completions")])
@pytest.mark.parametrize("golden", [(), (PROMPT,), (TURNS,)])
async def test_a_server_without_an_endpoint_is_asked_at_the_other(golden, capabilities):
    server = Server(chat_only)
    assert await passed(server, served(capabilities=capabilities), *golden) == "1/1"
    ((endpoint, body),) = server.taken
    assert endpoint == "chat/completions"
    assert prompt_of(body) == ("say right" if golden else "Hello")


async def test_a_model_without_chat_is_asked_at_completions():
    server = Server(no_refusal)
    assert await passed(server, served(capabilities=("completions",)), TURNS) == "1/1"
    assert server.taken[0][0] == "completions"


async def test_a_refusal_of_something_else_is_the_candidates():
    with pytest.raises(InvalidRequest, match="too long"):
        await passed(Server(lambda endpoint, body: "the prompt is too long"), served(), PROMPT)


async def test_a_server_that_refuses_every_form_is_quoted_with_its_first_refusal():
    def refuses(endpoint, body):
        return "no max_tokens" if "max_tokens" in body else "nor anything else"

    with pytest.raises(InvalidRequest, match="no max_tokens"):
        await passed(Server(refuses), served(), PROMPT)


async def test_a_models_own_parameters_are_sent_and_null_leaves_one_out():
    server = Server(no_refusal)
    stated = {"max_tokens": None, "temperature": 1, "reasoning_effort": "low"}
    await passed(server, served(golden_params=stated), PROMPT)
    ((_, body),) = server.taken
    assert body == {"prompt": "say right", "temperature": 1, "reasoning_effort": "low"}


async def test_a_model_that_thinks_gets_room_for_it():
    server, thinks = Server(no_refusal), ("chat", "reasoning")
    await passed(server, served(capabilities=thinks, thinking_tokens=500), TURNS)
    await passed(server, served(capabilities=thinks, thinking_tokens=5000), TURNS)
    await passed(server, served(thinking_tokens=500), TURNS)
    assert [body["max_tokens"] for _, body in server.taken] == [516, 16 + 1024, 16]


@pytest.mark.parametrize(
    ("text", "message"),
    [("<think>left? no.</think>right", {}), ("right", {"reasoning_content": "left?"})],
)
async def test_thinking_is_not_judged(text, message):
    server = Server(no_refusal, text, **message)
    exact = {**TURNS, "check": {"kind": "exact", "value": "right"}}
    assert await passed(server, served(), exact) == "1/1"


async def test_an_answer_that_is_all_thinking_says_so():
    server = Server(no_refusal, "<think>left? right? left", finish="length")
    with pytest.raises(ValidationFailed, match=r"wrong answer: '' \(all its tokens .*thinking"):
        await passed(server, served(), TURNS)


async def test_the_first_wrong_answer_says_why_it_is_no_json():
    wants = {"kind": "json_schema", "json_schema": {"required": ["city"]}}
    with pytest.raises(ValidationFailed, match=r"'Paris' \(not JSON: 'Paris'\)"):
        await passed(Server(no_refusal, "Paris"), served(), {**TURNS, "check": wants})
    with pytest.raises(ValidationFailed, match="property 'city' is missing"):
        await passed(Server(no_refusal, "{}"), served(), {**TURNS, "check": wants})
