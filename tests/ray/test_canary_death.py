"""The candidate's replica dies under traffic in mid-rollout: nobody loses a request."""

import pytest

from hotswap_ray.core.routing.split import Share, Split
from hotswap_ray.core.routing.target import Target
from tests.ray.conftest import wait_until
from tests.worlds.system import Talk, kill

pytestmark = pytest.mark.ray
TASK = "gamma"


def step_of(system, swap_id):
    return system.controller("wait", swap_id, 0)["facts"].get("canary", {}).get("step", 0)


@pytest.mark.parametrize("percent", [1, 99])
def test_a_candidate_that_dies_loses_no_request_and_its_conversations_go_on(system, percent):
    system.load("mortal")
    record = system.controller("swap", TASK, "mortal", canary=str(percent), compatibility="warn")
    swap_id = record["swap_id"]
    wait_until(lambda: step_of(system, swap_id) == 1, what="the step")
    system.controller("signal", swap_id, "pause")  # what the guardrails think of it is not asked
    generation = system.controller("wait", swap_id, 0)["to_generation"]
    target = Target("mortal", generation, 1)
    split = Split(swap_id, (Share(target, percent / 100),))
    session = next(
        name for name in map(str, range(10**5)) if split.arm(split.mark(name), None) == 1
    )

    def serves():
        answer = system.http.post(
            "/v1/completions",
            json={"model": f"auto:{TASK}", "prompt": "hi"},
            headers={"x-session-id": session},
        )
        assert answer.status_code == 200
        return answer.headers["x-hotswap-model"]

    with Talk(system, TASK) as talk:
        assert serves() == "mortal"
        assert kill(f"ServeReplica:{target.app}:") == 1
        # Until it is back the active model may answer; after that nobody else does.
        wait_until(lambda: serves() == "mortal", what="the conversation on its model again")
    assert talk.failed == []
    assert system.serves(TASK) == "a"
    system.controller("signal", swap_id, "abort")
    assert system.controller("wait", swap_id, 60)["phase"] == "failed"
    system.controller("unload", "mortal")
