"""What browsers are told, on every path of the data plane and on none of the control plane."""

import httpx
import pytest

from hotswap_ray import config
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import EngineError, HotswapError, Overloaded
from tests.worlds.api import CHAT, PATHS, TABLE, ApiWorld

PAGE = "http://localhost:3000"
ORIGIN = {"origin": PAGE}
ASKED = {
    **ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture
async def make():
    worlds = []

    async def made(*origins):
        world = ApiWorld(cors_origins=origins)
        await world.router.apply(TABLE)
        worlds.append(world)
        return world

    yield made
    for world in worlds:
        await world.http.aclose()


def told(response):
    return {k: v for k, v in response.headers.items() if k.startswith("access-control-")}


def readable(response):
    return set(response.headers["access-control-expose-headers"].split(", "))


@pytest.mark.parametrize("path", [*PATHS, "/v1/models", "/v1/models/a", "/healthz", "/v1/nothing"])
async def test_a_preflight_is_answered_without_a_token_with_what_it_asked_for(make, path):
    world = await make(PAGE, "https://chat.example")
    response = await world.http.options(path, headers={**ASKED, "authorization": ""})
    assert (response.status_code, response.content) == (204, b"")
    assert told(response) == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
        "access-control-allow-headers": "authorization,content-type,x-stainless-os",
        "access-control-max-age": "3600",
    }
    assert response.headers["vary"] == "Origin"
    assert "allow" in response.headers
    assert not world.models["a"].bodies


async def test_a_page_may_read_whole_and_streamed_answers_and_who_gave_them(make):
    world = await make(PAGE)
    for stream in (False, True):
        response = await world.chat(ORIGIN, stream=stream)
        assert response.headers["access-control-allow-origin"] == PAGE
        assert response.headers["vary"] == "Origin"
        ours = {name for name in response.headers if name.startswith("x-hotswap-")}
        assert len(ours) == 5
        assert readable(response) == {"x-request-id", "retry-after", *ours}


async def test_a_page_may_read_errors_of_every_kind(make):
    world = await make(PAGE)
    responses = [
        await world.chat({**ORIGIN, "authorization": "Bearer wrong"}),
        await world.http.get("/v1/nothing", headers=ORIGIN),
        await world.http.get("/v1/completions", headers=ORIGIN),
        await world.chat(ORIGIN, messages=[]),
    ]
    world.models["a"].error = Overloaded("full", 1.0)
    responses.append(await world.chat(ORIGIN))
    world.models["a"].error = world.models["b"].error = EngineError("broken")
    responses += [await world.chat(ORIGIN), await world.chat(ORIGIN, stream=True)]
    assert [r.status_code for r in responses] == [401, 404, 405, 400, 429, 500, 500]
    for response in responses:
        assert response.headers["access-control-allow-origin"] == PAGE
        assert {"x-request-id", "retry-after", "x-hotswap-request-id"} <= readable(response)


@pytest.mark.parametrize(
    "other",
    ["http://localhost:3001", "https://localhost:3000", "http://localhost", "null", PAGE[:-1]],
)
async def test_a_page_of_another_origin_is_told_nothing(make, other):
    world = await make(PAGE)
    for response in (
        await world.http.options("/v1/completions", headers={**ASKED, "origin": other}),
        await world.chat({"origin": other}),
    ):
        assert not told(response)
        assert response.headers["vary"] == "Origin"  # a cache must not keep it for the others


async def test_everybody_is_a_star_and_the_headers_are_still_named(make):
    world = await make("*")
    response = await world.http.options("/v1/completions", headers=ASKED)
    assert response.headers["access-control-allow-origin"] == "*"
    assert "authorization" in response.headers["access-control-allow-headers"]
    assert (await world.chat(ORIGIN)).headers["access-control-allow-origin"] == "*"


async def test_without_the_option_nobody_is_told_anything(make):
    world = await make()
    for response in (
        await world.http.options("/v1/completions", headers=ASKED),
        await world.chat(ORIGIN),
    ):
        assert not told(response)
        assert "vary" not in response.headers
    assert (await world.http.options("/v1/nothing", headers=ASKED)).status_code == 404


async def test_the_control_plane_is_for_no_page(make):
    world = await make("*")
    for method, path in (("OPTIONS", "/admin/status"), ("GET", "/admin"), ("GET", "//admin/x")):
        response = await world.http.request(method, f"http://test{path}", headers=ASKED)
        assert response.status_code == 299
        assert not told(response)
        assert "vary" not in response.headers


@pytest.mark.parametrize(
    ("written", "origins"),
    [
        ('"*"', ("*",)),
        ("https://chat.example", ("https://chat.example",)),
        ("[http://localhost:3000, https://chat.example]", (PAGE, "https://chat.example")),
        ("[chrome-extension://abcdef]", ("chrome-extension://abcdef",)),
        ("[]", ()),
        ("", ()),
        ('"${PAGES:-}"', ()),
    ],
)
def test_the_option_takes_one_origin_or_a_list(written, origins):
    text = f"""
models: {{a: {{engine: simulated}}}}
tasks: {{t: {{model: a}}}}
server:
  cors_origins: {written}
"""
    assert config.loads(text, env={}).server.cors_origins == origins


@pytest.mark.parametrize(
    "wrong", ["localhost:3000", "https://chat.example/", "https://*.example/x", "HTTP://A", "null"]
)
def test_what_no_browser_sends_is_refused_when_it_is_written(wrong):
    with pytest.raises(ValueError, match="is no origin"):
        ServerConfig(cors_origins=[wrong])


async def test_an_error_that_is_a_surprise_can_be_read_as_well(make):
    world = await make(PAGE)
    world.desk.error = RuntimeError("no")
    body = {"request_id": "r1", "score": 1}
    response = await world.http.post("/v1/feedback", json=body, headers=ORIGIN)
    assert response.json()["error"]["code"] == HotswapError.code
    assert response.headers["access-control-allow-origin"] == PAGE


async def test_a_client_that_is_no_browser_is_served_as_before(make):
    world = await make(PAGE)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(world.api),
        base_url="http://test",
        headers={"authorization": "Bearer secret"},
    ) as http:
        response = await http.post("/v1/chat/completions", json=CHAT)
    assert response.status_code == 200
    assert not told(response)
