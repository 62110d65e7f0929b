"""What vLLM is asked for a body, and how its answers come back."""

import pytest

from hotswap_ray.core.errors import ContextExceeded, InvalidRequest
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.vllm.engine import VllmEngine
from hotswap_ray.engines.vllm.request import VllmRequest, as_asked, read_request
from hotswap_ray.engines.vllm.runtime import VllmErrors

USER = {"role": "user", "content": "q"}
TOOL = {"type": "function", "function": {"name": "f"}}
PARSER = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]


def spec(*capabilities, **options):
    return ModelSpec(
        id="m",
        engine="vllm",
        source="org/model",
        context_tokens=512,
        capabilities=("chat", "completions", *capabilities),
        options=options,
    )


def chat(model=None, engine_kwargs=None, **body):
    told = {"messages": [USER], **body}
    return read_request(model or spec(), engine_kwargs or {}, "chat/completions", told)


def completion(**body):
    return read_request(spec(), {}, "completions", {"prompt": "p", **body}).body


def test_nulls_do_not_reach_vllm_and_two_names_of_a_limit_become_one():
    body = chat(seed=None, tools=None, max_tokens=None, max_completion_tokens=5).body
    assert body == {"messages": [USER], "max_tokens": 5}


def test_echo_with_logprobs_reaches_vllm_which_tells_those_of_the_prompt():
    asked = {"echo": True, "logprobs": 1, "max_tokens": 0, "prompt": [[1, 2], [3]]}
    assert completion(**asked) == asked


@pytest.mark.parametrize(("model", "engine_kwargs"), [(spec("tool_use"), {}), (spec(), PARSER)])
def test_tools_are_passed_on_where_they_are_declared_or_parsed(model, engine_kwargs):
    body = chat(model, engine_kwargs, tools=[TOOL], tool_choice="required").body
    assert body["tools"] == [TOOL]
    assert body["tool_choice"] == "required"


def test_tools_of_a_model_without_are_left_out_or_refused_when_a_call_is_required():
    assert chat(tools=[TOOL], tool_choice="auto").body.keys() == {"messages"}
    with pytest.raises(InvalidRequest, match="m does not do tools"):
        chat(tools=[TOOL], tool_choice="required")


def test_functions_are_told_as_they_were_asked():
    request = chat(engine_kwargs=PARSER, functions=[TOOL["function"]])
    assert request.body["tools"] == [TOOL]
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {"choices": [{"message": {"content": None, "tool_calls": [call]}}]}
    message = as_asked(request, answer)["choices"][0]["message"]
    assert message == {"content": None, "function_call": call["function"]}


def test_an_empty_answer_is_empty_text_but_a_call_has_none():
    call = {"tool_calls": [{"id": "1"}], "content": None}
    for message, content in (({"content": None}, ""), (call, None), ({"content": "a"}, "a")):
        answer = as_asked(VllmRequest({}), {"choices": [{"message": message}]})
        assert answer["choices"][0]["message"]["content"] == content


def test_an_assistants_message_is_gone_on_with():
    turns = [USER, {"role": "assistant", "content": "It is"}]
    body = chat(messages=turns).body
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False
    with pytest.raises(InvalidRequest, match="go on with an assistant's message"):
        chat(messages=turns, response_format={"type": "json_object"})


def test_a_schema_without_a_name_gets_one():
    asked = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    assert chat(response_format=asked).body["response_format"]["json_schema"]["name"]


def test_images_reach_only_a_model_that_is_declared_to_see():
    assert chat(spec("vision"), messages=IMAGE).body["messages"] == IMAGE
    with pytest.raises(InvalidRequest, match="m does not take images"):
        chat(messages=IMAGE)


def test_a_developer_is_a_system():
    body = chat(messages=[{"role": "developer", "content": "d"}, USER]).body
    assert body["messages"][0]["role"] == "system"


def test_a_refusal_for_length_has_the_code_that_clients_look_for():
    words = "This model's maximum context length is 512 tokens. However, you requested 600."
    with pytest.raises(ContextExceeded, match="512"), VllmErrors().translated("m"):
        raise ValueError(words)


@pytest.mark.parametrize(
    ("model", "tools", "vision"),
    [
        (spec(), False, False),
        (spec("tools", "vision"), True, True),
        (spec(engine_kwargs=PARSER), True, False),
    ],
)
def test_features_are_what_is_declared_and_set(model, tools, vision):
    assert VllmEngine.features(model) == {
        "tools": tools, "json": True, "vision": vision, "logprobs": True, "n": True
    }  # fmt: skip
