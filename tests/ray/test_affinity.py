"""A conversation keeps to one replica of its model, for real."""

from itertools import pairwise

MODEL = {
    "engine": "simulated",
    "resources": {"num_cpus": 0, "replicas": 3},
    "replica_affinity": True,
}


def number_of(answer):
    """Which answer of its replica it is: a simulated model counts its own."""
    return int(answer.json()["id"].rpartition("-")[2])


def test_each_conversation_is_answered_by_one_replica_and_all_replicas_answer(system):
    system.controller("load", "spread", MODEL)
    last = {}
    for _turn in range(4):
        for session in range(12):
            answer = system.http.post(
                "/v1/chat/completions",
                json={"model": "spread", "messages": [{"role": "user", "content": "hi"}]},
                headers={"x-session-id": f"s-{session}"},
            )
            assert answer.status_code == 200
            last.setdefault(session, []).append(number_of(answer))
    # From round to round a conversation's number grows by the conversations of its replica.
    steps = [{b - a for a, b in pairwise(n)} for n in last.values()]
    assert all(len(step) == 1 for step in steps)
    assert min(step.pop() for step in steps) < 12  # there is more than one replica in use
    system.controller("unload", "spread")
