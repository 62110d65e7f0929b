"""The arbiter finds the better model by itself, on real Ray, under load, and says why."""

import pytest

from hotswap_ray.core.errors import NotFound
from tests.ray.conftest import wait_until

pytestmark = pytest.mark.ray


def served(system, task, until, what):
    """Ask until a condition holds; every answer, and none of them lost."""
    seen = []

    def step():
        response = system.chat(f"auto:{task}")
        assert response.status_code == 200
        seen.append(response)
        return until()

    wait_until(step, 60, what)
    return seen


def test_the_better_model_is_found_by_a_share_of_the_traffic_and_swapped_to(system):
    assert system.controller("explain", "quiz")["mode"] == "off"
    system.controller("set_autoswap", "quiz", "on")
    answers = served(system, "quiz", lambda: system.serves("quiz") == "strong", "the swap")
    assert {"active", "explore"} <= {a.headers["x-hotswap-decision"] for a in answers}
    promoted = next(
        row for row in system.controller("decisions", "quiz") if row["action"] == "promote"
    )
    record = system.controller("wait", promoted["swap_id"], 60)
    assert (record["phase"], record["requested_by"]) == ("succeeded", "autoswap")
    assert record["to_model"] == "strong"
    told = system.controller("explain", promoted["swap_id"])
    assert "strong replaces weak, proven better" in told["sentence"]
    # And it stays: the one it replaced is no better.
    told = wait_until(
        lambda: (found := system.controller("explain", "quiz"))["what_would_change"] and found,
        30,
        "a look at the new model",
    )
    assert (told["kind"], told["model"]) == ("task", "strong")


def test_a_request_can_be_explained(system):
    response = system.chat("strong", metadata={"task_type": "quiz"})
    name = response.headers["x-request-id"]
    told = wait_until(lambda: explained(system, name), 30, "the outcome")
    assert told["kind"] == "request"
    assert told["sentence"].startswith("strong answered for quiz: the client named it")
    assert told["inputs"]["quality"] == 1.0


def explained(system, name):
    try:
        return system.controller("explain", name)
    except NotFound:  # its outcome is still on the way
        return None


def test_advice_comes_from_copies_and_changes_nothing_that_a_client_sees(system):
    def advised():
        rows = system.controller("decisions", "advice")
        return [row for row in rows if row["action"] == "promote"]

    answers = served(system, "advice", advised, "the advice")
    assert {a.headers["x-hotswap-model"] for a in answers} == {"weak"}
    (advice,) = advised()
    assert (advice["applies"], advice["swap_id"]) == (False, None)
    assert advice["sentence"].startswith("advice, not done: ")
    assert system.serves("advice") == "weak"
    rows = system.learning("learnings")
    copied = next(r for r in rows if (r["task"], r["model"]) == ("advice", "strong"))
    assert copied["quality"] == 1.0


def test_modes_are_set_over_http_and_nonsense_is_refused(system):
    def post(task, body):
        headers = {"authorization": "Bearer admin-key"}
        return system.http.post(f"/admin/tasks/{task}/autoswap", json=body, headers=headers)

    assert post("gamma", {"mode": "advise"}).json() == {"task": "gamma", "mode": "advise"}
    assert system.controller("status")["tasks"]["gamma"]["autoswap"] == "advise"
    assert post("gamma", {"mode": "config"}).json()["mode"] == "off"
    assert post("gamma", {"mode": "maybe"}).status_code == 400
    assert post("gamma", {}).status_code == 400
    assert post("nothing", {"mode": "on"}).status_code == 404
