"""The simulated engine does what clients ask for, whole and streamed alike."""

import json

import pytest
from jsonschema import validate

from hotswap_ray.core.errors import ContextExceeded, InvalidRequest
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.answers import assemble
from hotswap_ray.engines.simulated import SimulatedEngine

USER = {"role": "user", "content": "q"}
EVERYTHING = ("chat", "completions", "tools", "json", "logprobs", "n", "vision")
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
OTHER = {"type": "function", "function": {"name": "other"}}


async def started(*capabilities, context_tokens=2048, **options):
    spec = ModelSpec(
        id="s",
        engine="simulated",
        capabilities=capabilities or EVERYTHING,
        context_tokens=context_tokens,
        options=options,
    )
    engine = SimulatedEngine(spec)
    await engine.start()
    return engine


async def answers(engine, endpoint, **body):
    """The whole answer, and the streamed one put together."""
    first = {"prompt": "p q"} if endpoint == "completions" else {"messages": [USER]}
    whole = await engine.generate(endpoint, {**first, **body})
    chunks = [chunk async for chunk in engine.stream(endpoint, {**first, **body})]
    return whole, assemble(endpoint, chunks)


def without_ids(answer):
    text = json.dumps([answer["choices"], answer["usage"]], sort_keys=True)
    for number in range(1, 9):
        text = text.replace(f"call-{number}", "call")
    return json.loads(text)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat/completions", {"n": 3}),
        ("completions", {"n": 2, "prompt": ["a", "b"]}),
        ("completions", {"prompt": [[5, 6], [7]]}),
        ("completions", {"logprobs": 1, "echo": True}),
        ("completions", {"logprobs": 0, "echo": True, "max_tokens": 0}),
        ("chat/completions", {"logprobs": True, "top_logprobs": 2}),
        ("chat/completions", {"tools": [TOOL]}),
        ("chat/completions", {"tools": [TOOL], "n": 2}),
        ("chat/completions", {"functions": [TOOL["function"]]}),
        ("chat/completions", {"response_format": {"type": "json_object"}}),
    ],
)
async def test_a_stream_says_what_the_whole_answer_says(endpoint, body):
    whole, streamed = await answers(await started(), endpoint, **body)
    assert without_ids(streamed) == without_ids(whole)


async def test_each_prompt_has_as_many_choices_as_asked_all_counted():
    whole, _ = await answers(await started(), "completions", prompt=["a", "b"], n=2, max_tokens=1)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert whole["usage"]["completion_tokens"] == 4


async def test_an_echo_has_logprobs_that_an_evaluation_can_add_up():
    whole, _ = await answers(await started(), "completions", logprobs=1, echo=True, max_tokens=1)
    (choice,) = whole["choices"]
    told = choice["logprobs"]
    assert choice["text"] == "p qsimulated"
    assert told["tokens"] == ["p", " q", "simulated"]
    assert told["token_logprobs"] == [None, -1.0, 0.0]
    assert told["text_offset"] == [0, 1, 3]
    assert told["top_logprobs"][0] is None
    assert max(told["top_logprobs"][1]) == " q"


@pytest.mark.parametrize(
    ("choice", "name"),
    [("auto", "weather"), ("required", "weather"), ("none", None),
     ({"type": "function", "function": {"name": "other"}}, "other")],
)  # fmt: skip
async def test_the_choice_of_a_tool_is_obeyed(choice, name):
    engine = await started()
    for answer in await answers(
        engine, "chat/completions", tools=[TOOL, OTHER], tool_choice=choice
    ):
        message = answer["choices"][0]["message"]
        assert [call["function"]["name"] for call in message.get("tool_calls", [])] == (
            [name] if name else []
        )


async def test_a_call_has_arguments_that_its_schema_takes_and_an_id_of_its_own():
    engine = await started()
    found = []
    for answer in await answers(engine, "chat/completions", tools=[TOOL], n=2):
        for choice in answer["choices"]:
            (call,) = choice["message"]["tool_calls"]
            validate(json.loads(call["function"]["arguments"]), CITY)
            found.append(call["id"])
    assert sorted(found) == ["call-1", "call-2", "call-3", "call-4"]


@pytest.mark.parametrize("role", ["tool", "function"])
async def test_a_result_is_answered_with_text_so_that_a_loop_ends(role):
    turns = [USER, {"role": role, "name": "weather", "tool_call_id": "call-1", "content": "sun"}]
    for answer in await answers(await started(), "chat/completions", messages=turns, tools=[TOOL]):
        assert answer["choices"][0]["message"]["content"] == "simulated answer"
        assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "schema",
    [
        CITY,
        {"type": "object", "required": ["a"],
         "properties": {"a": {"type": "number", "minimum": 3}}},
        {"type": "object", "required": ["a"], "properties": {"a": {"enum": ["x", "y"]}}},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/b"}},
         "$defs": {"b": {"type": "array", "items": {"type": "boolean"}, "minItems": 2}}},
        {"type": "object", "required": ["a"], "properties": {"a": {"anyOf": [{"type": "null"}]}}},
        {"type": "object", "required": ["a"],
         "properties": {"a": {"type": "integer", "exclusiveMaximum": 0}}},
        {"type": "object", "required": ["a"],
         "properties": {"a": {"type": "string", "minLength": 30, "maxLength": 40}}},
    ],
)  # fmt: skip
async def test_an_answer_obeys_a_simple_schema(schema):
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for answer in await answers(await started(), "chat/completions", response_format=asked):
        validate(json.loads(answer["choices"][0]["message"]["content"]), schema)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"logprobs": True}, "tell logprobs"),
        ({"tools": [TOOL], "tool_choice": "required"}, "do tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "take images"),
    ],
)
async def test_what_is_not_declared_is_refused_by_name(body, word):
    engine = await started("chat", "completions")
    with pytest.raises(InvalidRequest, match=rf"s does not {word} \(capabilities: chat"):
        await engine.generate("chat/completions", {"messages": [USER], **body})


async def test_one_that_was_told_to_lack_tools_ignores_them_as_such_servers_do():
    engine = await started(lacks=["tools", "n"])
    whole, _ = await answers(engine, "chat/completions", tools=[TOOL], tool_choice="required")
    assert "tool_calls" not in whole["choices"][0]["message"]
    with pytest.raises(InvalidRequest, match="several answers"):
        await answers(engine, "chat/completions", n=2)


async def test_features_are_what_is_declared_without_what_it_lacks():
    engine = await started(lacks=["json"])
    assert SimulatedEngine.features(engine._spec) == {
        "tools": True, "json": False, "vision": True, "logprobs": True, "n": True
    }  # fmt: skip
    plain = SimulatedEngine.features(ModelSpec(id="a", engine="simulated"))
    assert plain == {"tools": False, "vision": False, "logprobs": False, "n": True}


async def test_a_prompt_over_the_context_has_both_numbers_and_the_words_of_openai():
    engine = await started(context_tokens=16)
    with pytest.raises(ContextExceeded) as refused:
        await answers(engine, "completions", prompt="a" * 100)
    assert "26 tokens" in str(refused.value)
    assert "maximum context length is 16 tokens" in str(refused.value)
    assert refused.value.code == "context_length_exceeded"
