"""Chunks become the answer that the server would have given whole."""

from hotswap_ray.engines.answers import UsageSum, assemble


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
