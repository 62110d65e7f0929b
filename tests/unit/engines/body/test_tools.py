"""Tools and legacy functions are read as one thing, and told in the way they were asked in."""

import pytest

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.engines.body.tools import calls_as_functions, functions_as_tools, read_tools


def tool(name, **parameters):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


F, G = tool("f"), tool("g")


@pytest.mark.parametrize(
    ("choice", "names", "is_required"),
    [
        (None, ["f", "g"], False),
        ("auto", ["f", "g"], False),
        ("none", [], False),
        ("required", ["f", "g"], True),
        ({"type": "function", "function": {"name": "g"}}, ["g"], True),
    ],
)
def test_the_choice_says_what_may_and_what_must_be_called(choice, names, is_required):
    body = {"tools": [F, G]} | ({} if choice is None else {"tool_choice": choice})
    wish = read_tools(body)
    assert [one["function"]["name"] for one in wish.tools] == names
    assert wish.is_required is is_required


@pytest.mark.parametrize(
    "body",
    [
        {"tools": "f"},
        {"tools": [5]},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "function": {"name": 5}}]},
        {"tools": [tool("f", type="wrong")]},
        {"tools": [F], "tool_choice": "always"},
        {"tools": [F], "tool_choice": {"type": "function", "function": {"name": "h"}}},
        {"tool_choice": "required"},
    ],
)
def test_tools_that_are_none_are_refused(body):
    with pytest.raises(InvalidRequest, match="tool"):
        read_tools(body)


def test_a_conversation_with_functions_is_one_with_tools():
    body = functions_as_tools(
        {
            "functions": [F["function"]],
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "4"},
            ],
        }
    )
    _, call, result = body["messages"]
    assert body["tools"] == [F]
    assert call["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert result["role"] == "tool"
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]


def test_the_answer_of_a_client_with_functions_has_the_first_call_only():
    calls = [
        {"index": index, "id": str(index), "function": {"name": name, "arguments": "{}"}}
        for index, name in enumerate("fg")
    ]
    choice = {"message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}
    assert calls_as_functions(choice) == {
        "message": {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
        "finish_reason": "function_call",
    }
    later = {"delta": {"tool_calls": [calls[1]]}, "finish_reason": None}
    assert calls_as_functions(later)["delta"] == {}
