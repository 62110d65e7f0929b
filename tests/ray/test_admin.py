"""The control plane over HTTP on a real Ray."""

import threading

import httpx
import pytest

from tests.ray.conftest import wait_until

pytestmark = pytest.mark.ray


@pytest.fixture
def admin(system):
    headers = {"authorization": "Bearer admin-key"}
    with httpx.Client(base_url=f"{system.url}/admin", headers=headers, timeout=120) as client:
        yield client


def simulated(**options):
    return {"engine": "simulated", "resources": {"num_cpus": 0}, "options": options}


def test_the_admin_token_is_asked_for_and_a_client_key_will_not_do(system, admin):
    assert httpx.get(f"{system.url}/admin/status").status_code == 401
    assert system.http.get("/admin/status").status_code == 401
    assert admin.get("/status").status_code == 200


def test_a_new_model_is_loaded_swapped_to_rolled_back_and_unloaded(system, admin):
    loaded = admin.post("/models/visitor/load", json=simulated(seed=9))
    assert (loaded.status_code, loaded.json()["state"]) == (200, "ready")

    swapped = admin.post(
        "/tasks/delta/swap",
        json={"model": "visitor", "wait_s": 60, "until": "end"},
        headers={"Idempotency-Key": "admin-swap-1"},
    ).json()
    again = admin.post(
        "/tasks/delta/swap", json={"model": "visitor", "swap_id": "admin-swap-1"}
    ).json()
    assert (swapped["phase"], again["swap_id"]) == ("succeeded", "admin-swap-1")
    assert admin.get("/tasks/delta").json()["model"] == "visitor"
    answer = admin.get("/swaps/admin-swap-1")
    assert answer.status_code == 200, answer.text
    journal = answer.json()["journal"]
    assert [step["phase"] for step in journal][:3] == ["requested", "checking", "loading"]
    assert journal[-1]["phase"] == "succeeded"

    refused = admin.post("/models/visitor/unload")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert admin.post("/tasks/delta/rollback", json={"wait_s": 60}).json()["phase"] == "rolled_back"
    assert system.serves("delta") == "a"
    assert admin.post("/models/visitor/unload").json()["state"] == "unloaded"


def test_a_model_sleeps_and_wakes(admin):
    assert admin.post("/models/napper/load", json=simulated(can_sleep=True)).status_code == 200
    assert admin.post("/models/napper/sleep").json()["state"] == "asleep"
    assert admin.post("/models/napper/wake").json()["state"] == "ready"
    assert admin.post("/models/napper/unload").json()["state"] == "unloaded"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "text"),
    [
        ("/models/zzz/load", None, 404, "not_found", "unknown model 'zzz'"),
        ("/models/w/load", {"engine": "simulatd"}, 404, "not_found", "did you mean 'simulated'"),
        ("/models/w/load", {"engin": "simulated"}, 400, "invalid_config", "engin: unknown key"),
        ("/models/w/load", simulated(sed=1), 400, "invalid_config", "did you mean 'seed'"),
        ("/models/w/load", simulated(fail_on_load="raise"), 503, "load_failed", "did not load"),
        ("/tasks/none/swap", {"model": "a"}, 404, "not_found", "unknown task 'none'"),
        ("/tasks/epsilon/swap", {"model": "zzz"}, 404, "not_found", "unknown model 'zzz'"),
        ("/tasks/epsilon/swap", {"model": "a"}, 409, "conflict", "serves task"),
        ("/tasks/epsilon/rollback", None, 409, "nothing_to_roll_back", "no earlier model"),
        ("/swaps/none/abort", None, 404, "not_found", "unknown swap 'none'"),
        ("/models/a/unload", None, 409, "conflict", "swap first"),
    ],
)
def test_refusals_cross_the_processes_with_their_code_and_words(
    admin, path, body, status, code, text
):
    answer = admin.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert text in answer.json()["error"]["message"]


def test_events_of_a_swap_are_streamed_and_resumed(system, admin):
    seen = []

    def listen():
        with admin.stream("GET", "/events", timeout=60) as stream:
            for line in stream.iter_lines():
                seen.append(line)
                if '"swap_id":"streamed"' in line and '"phase":"succeeded"' in line:
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    admin.post("/tasks/epsilon/swap", json={"model": "b", "swap_id": "streamed", "wait_s": 60})
    listener.join(60)
    assert not listener.is_alive()

    ids = [line.removeprefix("id: ") for line in seen if line.startswith("id: ")]
    assert [int(number) for number in ids] == sorted({int(number) for number in ids})
    headers = {"last-event-id": ids[-2]}
    with admin.stream("GET", "/events", headers=headers, timeout=60) as stream:
        assert next(line for line in stream.iter_lines() if line) == f"id: {ids[-1]}"
    system.controller("rollback", "epsilon")
    wait_until(lambda: system.serves("epsilon") == "a", what="rolled back")
