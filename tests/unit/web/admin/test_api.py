"""The control plane over HTTP, with a controller that records what it is asked."""

import asyncio
import json

import httpx
import pytest

from hotswap_ray.core.errors import Conflict, IllegalTransition, NotFound, StoreError
from hotswap_ray.web.admin import events as admin_events
from hotswap_ray.web.admin import http as admin_http
from tests.worlds.admin import STATUS, Listener, RecordingController, make_app, swap_event


@pytest.fixture
def controller():
    return RecordingController()


@pytest.fixture
async def client(controller):
    transport = httpx.ASGITransport(make_app(controller))
    async with httpx.AsyncClient(transport=transport, base_url="http://x/admin/") as client:
        yield client


async def test_status_models_tasks_swaps_and_learnings_are_told(client):
    assert (await client.get("status")).json() == STATUS
    assert (await client.get("models")).json() == {"models": STATUS["models"]}
    assert (await client.get("tasks/chat")).json() == {
        "task": "chat",
        **STATUS["tasks"]["chat"],
        "open_swaps": [{"swap_id": "s1", "task": "chat"}],
        "open_ab_tests": [{"id": "x2", "task": "chat"}],
    }
    assert (await client.get("tasks/chat/learnings")).json() == {"task": "chat", "models": []}
    swaps = await client.get("swaps", params={"task": "chat", "limit": 7})
    assert swaps.json() == {"swaps": [{"task": "chat", "limit": 7}]}
    record = (await client.get("swaps/s1")).json()
    assert record["journal"] == [{"phase": "requested"}]


async def test_models_are_loaded_unloaded_put_to_sleep_and_woken(client, controller):
    spec = {"engine": "simulated"}
    assert (await client.post("models/m/load")).status_code == 200
    assert (await client.post("models/m/load", json=spec)).status_code == 200
    for action in ("wake", "sleep", "unload"):
        assert (await client.post(f"models/m/{action}")).status_code == 200
    assert [(method, args) for method, args, _ in controller.calls] == [
        ("load", ("m",)),
        ("load", ("m", spec)),
        ("load", ("m",)),
        ("sleep", ("m",)),
        ("unload", ("m",)),
    ]


async def test_a_swap_is_asked_for_with_its_options_and_waited_for(client, controller):
    body = {"model": "b", "bake_s": 1, "strategy": "sleep", "compatibility": "warn", "wait_s": 5}
    answer = await client.post(
        "tasks/chat/swap", json=body, headers={"Idempotency-Key": "my-swap-1"}
    )
    assert answer.json()["asked"] == "wait"
    options = {"bake_s": 1, "strategy": "sleep", "compatibility": "warn", "canary": None}
    options["requested_by"] = "admin"
    assert controller.calls == [
        ("swap", ("chat", "b", "my-swap-1"), options),
        ("wait", ("s1", 5, "switched"), {}),
    ]


async def test_a_swap_without_a_wait_returns_at_once(client, controller):
    assert (await client.post("tasks/chat/swap", json={"model": "b"})).json()["asked"] == "swap"
    assert [method for method, _, _ in controller.calls] == ["swap"]


async def test_rollback_and_signals_reach_the_controller(client, controller):
    await client.post("tasks/chat/rollback")
    await client.post("tasks/chat/rollback", json={"swap_id": "undo-1", "wait_s": 2})
    for event in ("promote", "abort", "rollback"):
        await client.post(f"swaps/s9/{event}")
    assert [(method, args) for method, args, _ in controller.calls] == [
        ("rollback", ("chat", None)),
        ("rollback", ("chat", "undo-1")),
        ("wait", ("s1", 2, "end")),
        ("signal", ("s9", "promote")),
        ("signal", ("s9", "abort")),
        ("signal", ("s9", "rollback")),
    ]


async def test_a_rollback_may_name_its_model_and_the_possible_ones_are_listed(client, controller):
    await client.post("tasks/chat/rollback", json={"to": "a"})
    answer = await client.get("tasks/chat/generations")
    assert (answer.json()["task"], "generations" in answer.json()) == ("chat", True)
    assert controller.calls == [
        ("rollback", ("chat", None), {"to": "a"}),
        ("generations", ("chat",), {}),
    ]
    wrong = await client.post("tasks/chat/swap", json={"model": "b", "to": "a"})
    assert wrong.status_code == 400


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", "secret", "Basic secret"])
async def test_without_the_token_nothing_is_told_and_nothing_done(controller, given):
    transport = httpx.ASGITransport(make_app(controller, admin_token="secret", api_keys=["key"]))
    headers = {"authorization": given} if given else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for method, path in (("GET", "status"), ("GET", "nope"), ("POST", "models/a/unload")):
            answer = await client.request(method, f"/admin/{path}", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "unauthorized"
    assert controller.calls == []


async def test_the_token_of_the_data_plane_is_none_of_the_control_plane(controller):
    transport = httpx.ASGITransport(make_app(controller, admin_token="secret", api_keys=["key"]))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for token, status in (("key", 401), ("secret", 200)):
            headers = {"authorization": f"Bearer {token}"}
            assert (await client.get("/admin/status", headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "nope", None, 404, "no /admin/nope"),
        ("GET", "", None, 404, "no /admin/"),
        ("GET", "tasks/none", None, 404, "unknown task 'none'; known: chat"),
        ("GET", "tasks/none/learnings", None, 404, "unknown task 'none'"),
        ("POST", "models/a/explode", None, 404, "no /admin/models/a/explode"),
        ("POST", "status", None, 405, "takes GET only"),
        ("GET", "models/a/load", None, 405, "takes POST only"),
        ("DELETE", "events", None, 405, "takes GET only"),
        ("POST", "tasks/chat/swap", b"{", 400, "the body is not JSON"),
        ("POST", "tasks/chat/swap", b"[]", 400, "must be a JSON object"),
        ("POST", "tasks/chat/swap", b"", 400, "model: missing"),
        ("POST", "tasks/chat/swap", b'{"modell": "b"}', 400, "did you mean 'model'?"),
        ("POST", "tasks/chat/swap", b'{"model": "b", "bake_s": -1}', 400, "bake_s: "),
        ("POST", "tasks/chat/swap", b'{"model": "b", "strategy": "x"}', 400, "strategy: "),
        ("POST", "tasks/chat/swap", b'{"model": "b", "swap_id": "!"}', 400, "swap_id: a name is"),
        ("POST", "tasks/chat/rollback", b'{"wait_s": "x"}', 400, "wait_s: "),
        ("POST", "models/a/sleep", b'{"x": 1}', 400, "sleep takes no body"),
        ("GET", "swaps?limit=x", None, 400, "limit must be a whole number"),
        ("GET", "events?after_id=-1", None, 400, "after_id must be a whole number"),
    ],
)
async def test_bad_requests_get_openai_errors_that_say_what(
    client, method, path, body, status, text
):
    answer = await client.request(method, path, content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert text in answer.json()["error"]["message"]


async def test_two_different_swap_ids_are_refused(client):
    answer = await client.post(
        "tasks/chat/swap", json={"model": "b", "swap_id": "one"}, headers={"Idempotency-Key": "two"}
    )
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "error", [Conflict("busy", 5.0), IllegalTransition("no"), NotFound("no"), StoreError("full")]
)
async def test_a_refusal_of_the_controller_keeps_its_code(client, controller, error):
    controller.error = error
    answer = await client.post("swaps/s1/promote")
    assert (answer.status_code, answer.json()["error"]["code"]) == (error.http_status, error.code)
    assert ("retry-after" in answer.headers) == (error.http_status == 503)


async def test_a_controller_that_does_not_answer_gives_503_and_no_hang(
    client, controller, monkeypatch
):
    monkeypatch.setattr(admin_http, "QUICK_S", 0.01)
    controller.signal = lambda *_: asyncio.Event().wait()
    answer = await client.post("swaps/s1/promote")
    assert answer.status_code == 503
    assert "did not answer in time" in answer.json()["error"]["message"]


async def test_a_load_may_take_longer_than_other_calls(client, controller, monkeypatch):
    monkeypatch.setattr(admin_http, "QUICK_S", 0.01)

    async def slow(model):
        await asyncio.sleep(0.05)
        return {"model": model}

    controller.load = slow
    assert (await client.post("models/m/load")).json() == {"model": "m"}


async def test_events_come_as_they_happen_until_the_client_leaves(controller, monkeypatch):
    monkeypatch.setattr(admin_events, "POLL_S", 0.01)
    controller.log = [swap_event(1)]
    listener = Listener(controller)
    start = await listener.next()
    assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
    first = (await listener.next())["body"]
    assert first == b'id: 1\nevent: swap\ndata: {"at_s":1.0,"phase":"p1"}\n\n'
    controller.log.append(swap_event(2))
    assert (await listener.next())["body"].startswith(b"id: 2\n")
    await listener.leave()
    assert (await listener.next()) == {
        "type": "http.response.body",
        "body": b"",
        "more_body": False,
    }


@pytest.mark.parametrize(
    "where", [{"query": b"after_id=1"}, {"headers": [(b"last-event-id", b"1")]}]
)
async def test_events_resume_after_the_last_one_seen(controller, where):
    controller.log = [swap_event(1), swap_event(2)]
    listener = Listener(controller, **where)
    await listener.next()
    frames = (await listener.next())["body"]
    assert [json.loads(line[6:])["phase"] for line in frames.decode().splitlines()[2::4]] == ["p2"]
    await listener.leave()


async def test_a_quiet_stream_says_that_it_lives(controller, monkeypatch):
    monkeypatch.setattr(admin_events, "POLL_S", 0.01)
    monkeypatch.setattr(admin_events, "HEARTBEAT_S", 0.02)
    listener = Listener(controller)
    await listener.next()
    for _ in range(3):
        assert (await listener.next())["body"] == b": still here\n\n"
    await listener.leave()


async def test_a_stream_outlives_a_restart_of_the_controller(controller):
    controller.error = Conflict("away")
    controller.log = [swap_event(1)]
    listener = Listener(controller)
    await listener.next()
    bodies = [(await listener.next())["body"], (await listener.next())["body"]]
    assert any(body.startswith(b"id: 1") for body in bodies)
    await listener.leave()
