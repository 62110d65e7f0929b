"""Chunks become the answer that the server would have given whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotswap_ray.engines.answers import LastUsage, UsageSum, as_chunks, assemble


def test_tool_calls_in_pieces_are_put_together_by_their_index():
    def delta(calls):
        return {"choices": [{"index": 0, "delta": {"tool_calls": calls}}]}

    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]},
        delta([{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]),
        delta([{"index": 0, "function": {"arguments": '{"x":'}}]),
        delta([{"index": 0, "function": {"arguments": "1}"}}]),
        delta([{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"id": "c", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    ]
    whole = assemble("chat/completions", chunks)
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    message = whole["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "f", "arguments": '{"x":1}'},
        {"name": "g", "arguments": "{}"},
    ]


def test_several_choices_stay_apart_and_in_order():
    chunks = [
        {"choices": [{"index": 1, "text": "b"}]},
        {"choices": [{"index": 0, "text": "a"}]},
        {"choices": [{"index": 1, "text": "B", "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "text": "A", "finish_reason": "length"}]},
        {"choices": [], "usage": {}},
    ]
    whole = assemble("completions", chunks)
    assert [choice["text"] for choice in whole["choices"]] == ["aA", "bB"]


def test_log_probabilities_are_strung_together():
    def chunk(token):
        return {"choices": [{"index": 0, "text": token, "logprobs": {"content": [token]}}]}

    whole = assemble("completions", [chunk("a"), chunk("b"), {"choices": [], "usage": {}}])
    assert whole["choices"][0]["logprobs"] == {"content": ["a", "b"]}


def test_a_prompt_counts_once_for_several_answers_and_several_prompts_each():
    for many, tokens_in in ((False, 3), (True, 6)):
        usage = UsageSum(many_prompts=many)
        for _ in range(2):
            usage.add({"prompt_tokens": 3, "completion_tokens": 4})
        assert usage.total() == {
            "prompt_tokens": tokens_in,
            "completion_tokens": 8,
            "total_tokens": tokens_in + 8,
        }


def chat(delta, **choice):
    return {"choices": [{"index": 0, "delta": delta, **choice}]}


LAST = {"choices": [], "usage": {}}


def test_an_empty_answer_is_an_empty_text_unless_it_is_something_else():
    empty = assemble("chat/completions", [chat({"role": "assistant"}, finish_reason="stop"), LAST])
    assert empty["choices"][0]["message"]["content"] == ""
    refused = assemble("chat/completions", [chat({"refusal": "no"}), LAST])
    assert refused["choices"][0]["message"]["content"] is None
    thought = assemble("chat/completions", [chat({"reasoning_content": "hm"}), LAST])
    assert thought["choices"][0]["message"]["content"] == ""


def test_fields_that_are_not_known_here_are_put_together_as_well():
    chunks = [
        chat({"reasoning_content": "h", "annotations": [1]}, finish_reason=""),
        chat({"reasoning_content": "m", "annotations": [2]}, stop_reason=7, finish_reason="stop"),
        chat({}, finish_reason=None),
        LAST,
    ]
    (choice,) = assemble("chat/completions", chunks)["choices"]
    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["message"]["annotations"] == [1, 2]
    assert (choice["stop_reason"], choice["finish_reason"]) == (7, "stop")


def test_calls_whose_id_and_type_come_again_or_that_have_no_index_are_put_together():
    part = {"index": 0, "id": "a", "type": "function"}
    chunks = [
        chat({"tool_calls": [{**part, "function": {"name": "f", "arguments": "{"}}]}),
        chat({"tool_calls": [{**part, "function": {"arguments": "}"}}]}),
        chat({"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": "{}"}}]}),
        LAST,
    ]
    first, second = assemble("chat/completions", chunks)["choices"][0]["message"]["tool_calls"]
    assert first == {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert second["id"] == "b"


@pytest.mark.parametrize("endpoint", ["chat/completions", "completions"])
def test_a_whole_answer_cut_into_chunks_is_the_same_when_put_together(endpoint):
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hi", "reasoning": "hm", "tool_calls": [call]}
    said = {"text": "hi"} if endpoint == "completions" else {"message": message}
    choices = [
        {"index": index, "finish_reason": "stop", "logprobs": {"content": [1]}, "extra": 1, **said}
        for index in range(2)
    ]
    kind = "text_completion" if endpoint == "completions" else "chat.completion"
    answer = {"id": "x", "object": kind, "choices": choices, "usage": {"completion_tokens": 1}}
    last = {**answer, "choices": []}
    assert assemble(endpoint, [*as_chunks(answer), last]) == answer


def test_the_last_usage_counts_and_what_it_leaves_out_is_kept():
    usage = LastUsage()
    assert not usage.has_counts
    for value in (None, [], {"prompt_tokens": 9, "x": 1}, {"completion_tokens": 2}, {"x": None}):
        usage.add(value)
    assert usage.has_counts
    assert usage.total() == {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "total_tokens": 11,
        "x": 1,
    }


def test_a_total_that_counts_more_than_both_is_kept():
    usage = LastUsage()
    usage.add({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9})
    assert usage.total()["total_tokens"] == 9


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists))
def test_no_count_however_odd_does_harm(value):
    usage = LastUsage()
    usage.add({"prompt_tokens": value, "completion_tokens": value, "total_tokens": value})
    assert all(type(count) is int and count >= 0 for count in usage.total().values())
