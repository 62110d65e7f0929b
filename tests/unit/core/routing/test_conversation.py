"""One key for a conversation, however its client names it, and none where a name says nothing."""

import itertools

import pytest

from hotswap_ray.core.routing.conversation import (
    ConversationKeys,
    first_messages,
    in_tool_loop,
    open_calls,
)

MESSAGES = ("messages", "")
CALL = {"role": "assistant", "tool_calls": [{"id": "c1"}, {"id": "c2"}]}
LEGACY = {"role": "assistant", "content": None, "function_call": {"name": "f"}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "17"}


def user(text):
    return {"role": "user", "content": text}


def turns(*texts, system="You are Ann."):
    """The bodies of a growing conversation, one a turn."""
    messages = [{"role": "system", "content": system}]
    for text in texts:
        messages = [*messages, user(text)]
        yield {"messages": messages}
        messages = [*messages, {"role": "assistant", "content": f"answer to {text}"}]


def test_the_best_name_that_a_request_has_is_its_key():
    keys = ConversationKeys()
    assert keys.pick("t", [("prompt_cache_key", "k"), ("user", "ann"), MESSAGES], {}) == "k"
    assert keys.pick("t", [("user", "ann"), MESSAGES], {"messages": [user("hi")]}) == "ann"
    assert keys.pick("t", [], {"messages": [user("hi")]}) is None


def test_a_growing_conversation_without_a_name_keeps_its_key_and_another_has_another():
    keys = ConversationKeys()
    bodies = list(turns(*(f"turn {n}" for n in range(20))))
    assert len({keys.pick("t", [MESSAGES], body) for body in bodies}) == 1
    other = next(turns("something else"))
    assert keys.pick("t", [MESSAGES], other) != keys.pick("t", [MESSAGES], bodies[0])


def test_a_long_conversation_of_the_only_client_stays_one_conversation():
    keys = ConversationKeys()
    bodies = turns(*(f"turn {n}" for n in range(300)))
    assert {keys.pick("t", [("user", "ann"), MESSAGES], body) for body in bodies} == {"ann"}


def test_a_service_that_sends_one_user_for_everybody_is_noticed():
    keys = ConversationKeys()
    picked = [
        keys.pick("t", [("user", "svc"), MESSAGES], {"messages": [user(f"question {n}")]})
        for n in range(40)
    ]
    noticed = picked.index(next(key for key in picked if key != "svc"))
    assert noticed < 15
    assert len(set(picked[noticed:])) == 40 - noticed


def test_a_person_among_many_is_no_service_however_many_conversations_they_begin():
    keys = ConversationKeys()
    for n in range(200):
        person = ("user", "ann" if n % 3 == 0 else f"person-{n}")
        picked = keys.pick("t", [person, MESSAGES], {"messages": [user(f"question {n}")]})
        assert picked == person[1]


def test_a_first_message_that_most_clients_send_names_no_conversation():
    keys = ConversationKeys()
    first = {"messages": [user("hi")]}
    picked = [keys.pick("t", [MESSAGES], first) for _ in range(30)]
    assert picked[0] is not None
    assert picked[-1] is None
    answers = (f"I am number {n}" for n in itertools.count())
    later = [
        {"messages": [user("hi"), {"role": "assistant", "content": next(answers)}, user("so?")]}
        for _ in range(2)
    ]
    one, other = (keys.pick("t", [MESSAGES], body) for body in later)
    assert one is not None
    assert one != other
    assert keys.pick("t", [MESSAGES], later[0]) == one


def test_what_is_noticed_of_one_task_says_nothing_of_another():
    keys = ConversationKeys()
    for n in range(40):
        keys.pick("t", [("user", "svc"), MESSAGES], {"messages": [user(f"question {n}")]})
    assert keys.pick("u", [("user", "svc"), MESSAGES], {"messages": [user("hi")]}) == "svc"


@pytest.mark.parametrize(
    ("messages", "ids"),
    [
        ([user("hi")], []),
        ([user("hi"), CALL, RESULT], ["c1", "c2"]),
        ([user("hi"), CALL], ["c1", "c2"]),
        ([user("hi"), CALL, RESULT, user("never mind")], []),
        ([user("hi"), CALL, RESULT, {"role": "assistant", "content": "done"}], []),
        ([user("hi"), LEGACY, {"role": "function", "name": "f", "content": "1"}], [None]),
        ([user("hi"), {"role": "assistant", "tool_calls": ["odd"]}], [None]),
        (None, []),
        ([17, "odd"], []),
    ],
)
def test_the_calls_that_a_request_continues(messages, ids):
    body = {"messages": messages}
    assert open_calls(body) == ids
    assert in_tool_loop(body) == bool(ids)


def test_odd_messages_have_no_beginning():
    for messages in (None, 5, [], ["x"], [{"role": 1}], [{"role": "system", "content": "s"}]):
        assert first_messages({"messages": messages}) == ("", False)
