"""Each request has an id of its own, whatever the client calls it and whoever else numbers it."""

import json

import httpx
import pytest

from hotswap_ray.web.around_serve import AroundServe
from hotswap_ray.web.request_id import Ids, label, number
from hotswap_ray.web.trace_context import trace_headers, tracestate
from tests.worlds.api import CHAT, KEY, TABLE, ApiWorld

SERVES = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"


def scope_of(*headers):
    return {"type": "http", "headers": [(k.encode(), v.encode("latin-1")) for k, v in headers]}


@pytest.fixture
async def world():
    made = ApiWorld()
    await made.router.apply(TABLE)
    yield made
    await made.http.aclose()


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("mine", "mine"),
        ("x" * 500, "x" * 128),
        ("tab\there", None),
        ("", None),
        ("\xe9t\xe9", "\xe9t\xe9"),
    ],
)
async def test_a_label_is_returned_cut_or_dropped_but_never_refused(world, sent, shown):
    response = await world.chat({"x-request-id": sent.encode("latin-1")})
    assert response.status_code == 200
    value = dict(response.headers.raw).get(b"x-hotswap-label")
    assert value == (None if shown is None else shown.encode("latin-1"))
    assert response.headers["x-request-id"] not in (sent, shown)


async def test_an_error_has_the_id_and_the_label_too(world):
    response = await world.chat({"x-request-id": "mine"}, messages=[])
    assert (response.status_code, response.headers["x-hotswap-label"]) == (400, "mine")
    assert response.headers["x-request-id"] == response.headers["x-hotswap-request-id"]


def serve(app):
    """What Serve does with ids, as it does it: a client's is returned, else one of its own."""

    async def served(scope, receive, send):
        sent = dict(scope["headers"]).get(b"x-request-id")
        if sent is None:
            sent = SERVES.encode()
            scope["headers"] = [*scope["headers"], (b"x-request-id", sent)]

        async def answered(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"X-Request-ID", sent)]
            await send(message)

        await app(scope, receive, answered)

    return served


def client(app):
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers=KEY
    )


@pytest.mark.parametrize("headers", [{}, {"x-request-id": "mine"}, {"x-request-id": SERVES}])
async def test_around_serve_our_id_is_the_one_that_serve_returns(world, headers):
    async with client(AroundServe(serve(world.behind_serve()))) as http:
        answers = [
            await http.post("/v1/chat/completions", json=CHAT, headers=headers) for _ in range(3)
        ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 3
    assert ids == [answer.headers["x-hotswap-request-id"] for answer in answers]
    assert ids == [outcome.request_id for outcome in world.router.recorder.outcomes]
    assert {a.headers.get("x-hotswap-label") for a in answers} == {headers.get("x-request-id")}


async def test_without_it_serves_own_number_is_our_id_and_a_label_is_none(world):
    async with client(serve(world.behind_serve())) as http:
        plain = await http.post("/v1/chat/completions", json=CHAT)
        named = [
            await http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine"})
            for _ in range(2)
        ]
    assert plain.headers["x-request-id"] == plain.headers["x-hotswap-request-id"] == SERVES
    own = [answer.headers["x-hotswap-request-id"] for answer in named]
    assert len({*own, "mine"}) == 3
    assert [answer.headers["x-hotswap-label"] for answer in named] == ["mine"] * 2
    outcomes = [outcome.request_id for outcome in world.router.recorder.outcomes]
    assert outcomes == [SERVES, *own]


def test_a_number_that_looks_like_serves_is_taken_once_and_only_where_serve_adds_it():
    ids = Ids(behind_serve=True)
    added = scope_of(("host", "x"), ("x-request-id", SERVES))
    sent = scope_of(("x-request-id", SERVES), ("host", "x"))
    assert ids.of(sent)[1] == SERVES
    assert ids.of(added) == (SERVES, None)
    again, shown = ids.of(added)
    assert (again != SERVES, shown) == (True, SERVES)
    assert Ids(behind_serve=False).of(added)[0] != SERVES


def test_a_request_that_was_numbered_keeps_its_number_and_serve_reads_no_other():
    scope = scope_of(("x-request-id", "mine"), ("host", "x"), ("x-request-id", "again"))
    number(scope, "0" * 32)
    assert [pair for pair in scope["headers"] if pair[0] == b"x-request-id"] == [
        (b"x-request-id", b"0" * 32)
    ]
    assert Ids(behind_serve=True).of(scope) == ("0" * 32, "mine")


def test_what_cannot_be_shown_is_no_label():
    assert [label(one) for one in (None, "", "\x00", "a\nb", "ok")] == [
        None,
        None,
        None,
        None,
        "ok",
    ]


async def no_application(scope, receive, send):
    """Serve before there is an application."""
    text = f"Path '{scope['path']}' not found. Ping http://.../-/routes for available routes."
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": text[:10].encode(), "more_body": True})
    await send({"type": "http.response.body", "body": text[10:].encode()})


async def test_serves_404_before_there_is_an_application_is_a_503_that_clients_try_again():
    async with client(AroundServe(serve(no_application))) as http:
        response = await http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert len(response.headers["x-request-id"]) == 32
    error = json.loads(response.content)["error"]
    assert (error["code"], error["type"]) == ("cluster_unavailable", "server_error")


async def test_our_own_404_and_other_protocols_pass_unchanged(world):
    async with client(AroundServe(serve(world.behind_serve()))) as http:
        response = await http.get("/v1/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    await AroundServe(app)({"type": "websocket"}, None, None)
    assert seen == [{"type": "websocket"}]


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "passed"),
    [
        ([], {}),
        ([("traceparent", PARENT)], {"traceparent": PARENT}),
        ([("traceparent", f" {PARENT}\t")], {"traceparent": PARENT}),
        (
            [("tracestate", "a=1"), ("traceparent", PARENT), ("tracestate", "b=2")],
            {"traceparent": PARENT, "tracestate": "a=1,b=2"},
        ),
        ([("tracestate", "a=1")], {}),
        ([("traceparent", PARENT), ("traceparent", PARENT)], {}),
        ([("traceparent", PARENT), ("tracestate", "x" * 600)], {"traceparent": PARENT}),
        ([("traceparent", PARENT.upper())], {}),
        ([("traceparent", f"{PARENT}-more")], {}),
        ([("traceparent", f"cc{PARENT[2:]}-more")], {"traceparent": f"cc{PARENT[2:]}-more"}),
        ([("traceparent", f"ff{PARENT[2:]}")], {}),
        ([("traceparent", PARENT[:-1])], {}),
        ([("traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01")], {}),
        ([("traceparent", f"00-{'a' * 32}-{'0' * 16}-01")], {}),
        ([("traceparent", "\xe9")], {}),
    ],
)
def test_a_trace_is_passed_on_if_it_is_one(headers, passed):
    assert trace_headers(scope_of(*headers)) == passed


def test_a_trace_state_of_too_many_members_is_none():
    assert tracestate([f"k{n}=v" for n in range(33)]) is None
    assert tracestate([f"k{n}=v" for n in range(32)]) is not None
