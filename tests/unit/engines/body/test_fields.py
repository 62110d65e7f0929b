"""What a body may say: nulls are absent, and what is wrong is refused by its name."""

import pytest

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.body.fields import read_fields, token_limit
from hotswap_ray.engines.body.formats import read_format
from hotswap_ray.engines.body.messages import read_messages
from hotswap_ray.engines.body.prompts import read_prompts
from hotswap_ray.engines.body.refusals import refuse_undone

SPEC = ModelSpec(id="small", engine="simulated")


def test_nulls_are_absent():
    names = ("n", "stop", "seed", "tools", "stream_options", "logprobs", "max_tokens", "mine")
    assert read_fields("chat/completions", dict.fromkeys(names)) == {}


def test_fields_that_are_not_known_are_left_to_the_engine():
    assert read_fields("completions", {"min_p": 0.1, "grammar": "g"}) == {
        "min_p": 0.1,
        "grammar": "g",
    }


@pytest.mark.parametrize(
    ("endpoint", "field", "value"),
    [
        ("chat/completions", "n", 0),
        ("chat/completions", "n", True),
        ("chat/completions", "n", 1.5),
        ("chat/completions", "temperature", 2.1),
        ("chat/completions", "temperature", -0.1),
        ("chat/completions", "temperature", "hot"),
        ("chat/completions", "temperature", True),
        ("chat/completions", "top_p", 1.1),
        ("chat/completions", "presence_penalty", 3),
        ("chat/completions", "frequency_penalty", -3),
        ("chat/completions", "seed", "x"),
        ("chat/completions", "seed", True),
        ("chat/completions", "stop", 5),
        ("chat/completions", "stop", ["a", 5]),
        ("chat/completions", "stream", "true"),
        ("chat/completions", "stream_options", "yes"),
        ("chat/completions", "stream_options", {"include_usage": "yes"}),
        ("chat/completions", "stream_options", {"include_usage": 1}),
        ("chat/completions", "logit_bias", [5]),
        ("chat/completions", "logit_bias", {"word": 5}),
        ("chat/completions", "logit_bias", {"5": 101}),
        ("chat/completions", "logprobs", 1),
        ("chat/completions", "top_logprobs", 21),
        ("chat/completions", "top_logprobs", 2),
        ("chat/completions", "parallel_tool_calls", "no"),
        ("completions", "logprobs", True),
        ("completions", "logprobs", 21),
        ("completions", "echo", "yes"),
        ("completions", "suffix", 5),
    ],
)
def test_a_field_of_a_wrong_type_or_out_of_its_range_is_refused_by_name(endpoint, field, value):
    with pytest.raises(InvalidRequest, match=field):
        read_fields(endpoint, {field: value})


@pytest.mark.parametrize("count", [1, 4, 9])
def test_stop_takes_a_string_or_any_number_of_them_and_drops_empty_ones(count):
    assert read_fields("completions", {"stop": "a"}) == {"stop": ["a"]}
    assert read_fields("completions", {"stop": ["a"] * count + [""]}) == {"stop": ["a"] * count}
    assert read_fields("completions", {"stop": ""}) == {}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("limit", [True, False, 0, -1, 1.5, 10**30, "5"])
def test_a_limit_that_is_no_positive_integer_is_refused(name, limit):
    with pytest.raises(InvalidRequest, match=name):
        token_limit({name: limit})


def test_the_smaller_of_two_limits_holds_and_nothing_may_be_asked_for_beside_an_echo():
    assert token_limit({"max_completion_tokens": 5}) == 5
    assert token_limit({"max_tokens": 3, "max_completion_tokens": 5}) == 3
    assert token_limit({"max_tokens": 2**63}) == 2**63
    assert token_limit({"max_tokens": 0}, may_be_none=True) == 0


@pytest.mark.parametrize("message", [None, 5, {}, {"role": None}, {"role": ["user"]}])
def test_what_is_no_message_is_refused_with_its_place(message):
    with pytest.raises(InvalidRequest, match=r"messages\[1\]"):
        read_messages(SPEC, [{"role": "user", "content": "a"}, message])


def test_a_role_that_is_not_known_is_refused_by_name():
    with pytest.raises(InvalidRequest, match="'frog'"):
        read_messages(SPEC, [{"role": "frog", "content": "a"}])


@pytest.mark.parametrize("content", [5, {"a": 1}, [5], [{"type": "poem"}], [{"type": "text"}]])
def test_content_that_is_neither_text_nor_parts_is_refused(content):
    with pytest.raises(InvalidRequest, match=r"messages\[0\].content"):
        read_messages(SPEC, [{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, "take images"),
        ({"type": "input_audio", "input_audio": {}}, "take audio"),
        ({"type": "file", "file": {}}, "take files"),
    ],
)
def test_parts_that_a_model_cannot_read_are_refused_with_the_model_and_what_it_can(part, word):
    with pytest.raises(InvalidRequest, match=f"small does not {word}.*chat, completions.*choose"):
        read_messages(SPEC, [{"role": "user", "content": [part]}])


def test_a_call_without_content_and_a_result_without_one_are_empty_text():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "1", "content": None},
    ]
    assert read_messages(SPEC, turns) == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "1"},
    ]


@pytest.mark.parametrize("prompt", [None, "", [], [[]], [""], 5, ["a", 5], [True], [-1], [1.5], {}])
def test_a_prompt_that_is_none_is_refused(prompt):
    with pytest.raises(InvalidRequest, match="need a prompt"):
        read_prompts(prompt)


@pytest.mark.parametrize(
    "asked",
    [
        "json",
        {},
        {"type": "poem"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "wrong"}}},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/$defs/none"}}},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "https://example.org/x"}}},
    ],
)
def test_a_format_that_is_none_is_refused(asked):
    with pytest.raises(InvalidRequest, match="response_format"):
        read_format(asked)


def test_a_schema_is_taken_with_strict_and_without():
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}
    for extra in ({}, {"strict": True}, {"strict": False}, {"name": "x"}):
        asked = {"type": "json_schema", "json_schema": {"schema": schema, **extra}}
        assert read_format(asked) == schema


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3, "n": 2}, "best of"),
        ({"modalities": ["text", "audio"]}, "text only"),
        ({"web_search_options": {}}, "web"),
    ],
)
def test_what_no_engine_does_is_refused_with_the_model_and_what_to_do(asked, word):
    with pytest.raises(InvalidRequest, match=rf"small .*{word}.*; ask"):
        refuse_undone(SPEC, asked)
