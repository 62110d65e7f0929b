"""What llama.cpp is asked for a body, and what is refused by name instead."""

import json

import pytest

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.llama_cpp import BASE_MODEL_TEMPLATE, LlamaCppEngine
from hotswap_ray.engines.llama_cpp.forced import ForcedCall
from hotswap_ray.engines.llama_cpp.request import Template, read_request
from hotswap_ray.engines.llama_cpp.template import template_uses

SPEC = ModelSpec(id="small", engine="llama_cpp", context_tokens=512, max_ongoing_requests=4)
PLAIN = Template(BASE_MODEL_TEMPLATE, is_plain=True)
WITH_TOOLS = Template("{{ messages }}{% if tools %}{{ tools }}{% endif %}", is_plain=False)
USER = {"role": "user", "content": "q"}
NAME = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": NAME}}
NAMED = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": NAME}}


def chat(template=PLAIN, **body):
    return read_request(SPEC, template, "chat/completions", {"messages": [USER], **body})


def completion(**body):
    return read_request(SPEC, PLAIN, "completions", {"prompt": "p", **body})


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_is_required_of_a_model_without_tools_is_refused_by_name(choice):
    with pytest.raises(InvalidRequest) as refused:
        chat(tools=[TOOL], tool_choice=choice)
    assert str(refused.value) == (
        "small does not do tools (capabilities: chat, completions); choose a task whose model does"
    )


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_tools_that_a_template_does_not_write_are_left_out(choice):
    body = chat(tools=[TOOL], tool_choice=choice, parallel_tool_calls=True).body
    assert body.keys() & {"tools", "tool_choice", "parallel_tool_calls"} == set()


def test_tools_that_a_template_writes_are_passed_on():
    body = chat(WITH_TOOLS, tools=[TOOL], parallel_tool_calls=False).body
    assert body["tools"] == [TOOL]
    assert body["parallel_tool_calls"] is False
    assert "tools" not in chat(WITH_TOOLS, tools=[TOOL], tool_choice="none").body


def test_a_required_call_is_held_by_a_schema():
    request = chat(WITH_TOOLS, tools=[TOOL], tool_choice=NAMED)
    assert request.body["response_format"]["json_schema"]["schema"] == NAME
    assert request.forced is not None


def test_the_schema_of_one_of_several_calls_keeps_the_references_of_each():
    inner = {"$ref": "#/$defs/city", "$defs": {"city": {"type": "string"}}}
    cities = [{"function": {"name": name, "parameters": inner}} for name in ("sun", "rain")]
    schema = ForcedCall(tuple(cities)).schema()
    assert schema["$defs"]["tool1"]["$ref"] == "#/$defs/tool1/$defs/city"
    assert schema["anyOf"][1]["properties"]["arguments"] == {"$ref": "#/$defs/tool1"}


def test_a_call_that_was_cut_off_is_told_as_far_as_it_came():
    two = ForcedCall(({"function": {"name": "f"}}, {"function": {"name": "g"}}))
    assert two.function('{"name": "g", "arguments": {"a": "b') == {
        "name": "g",
        "arguments": '{"a": "b',
    }
    assert two.function('{"name": "g') is None


def test_hints_and_nulls_do_not_reach_llama_cpp():
    body = chat(
        user="u", metadata={"a": "b"}, store=True, service_tier="auto", reasoning_effort="low",
        seed=None, tools=None, response_format=None, max_tokens=None, max_completion_tokens=5,
    ).body  # fmt: skip
    known = {"messages", "max_tokens", "stop", "stream", "stream_options"}
    assert body.keys() == known
    assert body["max_tokens"] == 5


def test_effort_reaches_a_template_that_asks_for_it():
    template = Template("{{ messages }}{{ reasoning_effort }}", is_plain=False)
    body = chat(template, reasoning_effort="low").body
    assert body["chat_template_kwargs"] == {"reasoning_effort": "low"}


def test_a_developer_is_a_system_unless_the_template_knows_better():
    turns = [{"role": "developer", "content": "d"}, USER]
    assert chat(messages=turns).body["messages"][0]["role"] == "system"
    knows = Template("{{ messages }}{# developer #}", is_plain=False)
    assert chat(knows, messages=turns).body["messages"][0]["role"] == "developer"


def test_the_template_for_base_models_never_writes_none():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = chat(
        messages=[
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "4"},
        ]
    ).body["messages"]
    assert [turn["content"] for turn in turns] == ["q", 'f({"a": 1})', "Result: 4"]


@pytest.mark.parametrize(("n", "is_taken"), [(4, True), (5, False)])
def test_more_answers_than_slots_are_refused_with_the_number(n, is_taken):
    if is_taken:
        assert chat(n=n).n == n
        return
    with pytest.raises(InvalidRequest, match="small gives at most 4 answers"):
        chat(n=n)


def test_logit_bias_seed_and_stop_reach_llama_cpp_in_its_own_form():
    body = chat(logit_bias={"5": -100}, seed=-1, stop="x").body
    assert body["logit_bias"] == [[5, -100.0]]
    assert body["seed"] == 2**32 - 1
    assert body["stop"] == ["x", "\nQ:"]


@pytest.mark.parametrize(
    ("asked", "told", "kept"),
    [({}, None, None), ({"logprobs": True}, 1, 0), ({"logprobs": True, "top_logprobs": 3}, 3, 3)],
)
def test_logprobs_of_a_chat_are_as_many_as_asked(asked, told, kept):
    request = chat(**asked)
    assert request.body.get("top_logprobs") == told
    assert request.top_logprobs == kept


def test_a_limit_beyond_the_context_is_the_context():
    assert chat().body["max_tokens"] == 512
    assert chat(max_tokens=2**63).body["max_tokens"] == 512
    assert completion().body["max_tokens"] == 16
    assert completion(max_tokens=0, echo=True).body["max_tokens"] == 0
    with pytest.raises(InvalidRequest, match="max_tokens"):
        completion(max_tokens=0)


def test_a_schema_for_a_text_completion_is_refused_since_llama_cpp_may_drop_it():
    assert completion(response_format={"type": "json_object"}).body["json_schema"]
    with pytest.raises(InvalidRequest, match="chat completions"):
        completion(response_format=SCHEMA)


@pytest.mark.parametrize("more", [{"response_format": SCHEMA}, {"tool_choice": "required"}])
def test_an_assistants_message_is_gone_on_with_but_not_in_a_form(more):
    turns = [USER, {"role": "assistant", "content": "It is"}]
    assert chat(WITH_TOOLS, messages=turns).body["messages"] == turns
    with pytest.raises(InvalidRequest, match="go on with an assistant's message"):
        chat(WITH_TOOLS, messages=turns, tools=[TOOL], **more)


@pytest.mark.parametrize(
    ("template", "uses"),
    [
        (BASE_MODEL_TEMPLATE, False),
        ("{%- if tools is defined and tools %}{{ tools | tojson }}{% endif %}", True),
        ("{%- for tool in tools %}{{ tool }}{% endfor %}", True),
        ("{% for message in messages %}{{ message.tools }}{% break %}{% endfor %}", False),
        ("{% generation %}{% if tools %}x{% endif %}{% endgeneration %}", True),
        ("{% set tools = [] %}{{ tools }}", False),
    ],
)
def test_a_template_is_seen_to_use_tools_or_not(template, uses):
    assert template_uses(template, "tools") is uses


@pytest.mark.parametrize(
    ("capabilities", "tools"),
    [(("chat",), False), (("chat", "function_calling"), True)],
)
def test_features_are_what_is_declared_and_what_llama_cpp_always_does(capabilities, tools):
    spec = SPEC.model_copy(update={"capabilities": capabilities})
    assert LlamaCppEngine.features(spec) == {
        "tools": tools, "json": True, "vision": False, "logprobs": True, "n": True
    }  # fmt: skip


def test_what_llama_cpp_is_asked_is_json():
    assert json.dumps(chat(WITH_TOOLS, tools=[TOOL], tool_choice="required").body)
