"""Which paths there are, what each takes, and what is said of all others."""

import pytest

from hotswap_ray import __version__
from tests.worlds.api import CHAT, PATHS, TABLE, ApiWorld, refused

GETS = ["/", "/health", "/healthz", "/readyz", "/version", "/metrics", "/v1/models", "/v1/models/a"]


@pytest.fixture
async def world():
    made = ApiWorld()
    await made.router.apply(TABLE)
    yield made
    await made.http.aclose()


async def test_health_has_the_name_that_other_servers_give_it(world):
    for path in ("/health", "/healthz"):
        assert (await world.http.get(path)).json() == {"status": "ok"}


async def test_version_root_and_metrics_say_what_a_newcomer_looks_for(world):
    assert (await world.http.get("/version")).json() == {"version": __version__}
    root = (await world.http.get("/")).json()
    assert (root["name"], root["version"]) == ("hotswap_ray", __version__)
    assert root["post"] == PATHS
    for path in root["get"]:
        assert (await world.http.get(path)).status_code == 200
    metrics = await world.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "prom_metrics_service_discovery.json" in metrics.text
    assert all(line.startswith("#") for line in metrics.text.splitlines())  # an empty scrape


@pytest.mark.parametrize("path", GETS)
async def test_head_is_get_without_the_body(world, path):
    got, head = await world.http.get(path), await world.http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert int(got.headers["content-length"]) == len(got.content)


@pytest.mark.parametrize("path", GETS)
async def test_what_is_read_takes_no_post_and_says_what_it_takes(world, path):
    response = await world.http.post(path, json={})
    refused(response, 405, "method_not_allowed", "GET")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_what_is_posted_takes_nothing_else(world, path, method):
    response = await world.http.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("path", [*PATHS, *GETS])
async def test_options_without_an_origin_says_what_a_path_takes_and_needs_no_token(world, path):
    response = await world.http.options(path, headers={"authorization": ""})
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["allow"] == ("POST, OPTIONS" if path in PATHS else "GET, HEAD, OPTIONS")
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/completions//",
    ],
)
async def test_slashes_too_many_are_no_other_path(world, path):
    response = await world.http.post(f"http://test{path}", json={**CHAT, "prompt": "hi"})
    assert response.status_code == 200


async def test_slashes_too_many_are_forgiven_where_one_reads_too(world):
    for path in ("/v1/models/", "/v1/models/auto:t/", "/healthz/"):
        assert (await world.http.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/completions", "/v1/completions"),
        ("/models", "/v1/models"),
    ],
)
async def test_a_base_url_that_is_wrong_is_told_the_right_path(world, path, meant):
    text = f"no {path} here, did you mean {meant}?"
    for response in (await world.http.post(path, json=CHAT), await world.http.get(path)):
        refused(response, 404, "not_found", text, "POST /v1/chat/completions", "GET /v1/models")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v1/moderations",
        "/v1/rerank",
        "/v1/audio/speech",
        "/v1",
        "/v2/chat",
        "/administrator",
        "/v1/models-of-mine",
    ],
)
async def test_a_path_that_is_not_there_says_what_is(world, path):
    response = await world.http.post(path, json={})
    refused(response, 404, "not_found", path, "chat and text completions only", "/v1/completions")
    assert "did you mean" not in response.text


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/v1/responses", 'set your client to "chat completions"'),
        ("/v1/responses/resp_1", 'set your client to "chat completions"'),
        ("/v1/messages", "chat completions"),
        ("/v1/messages/count_tokens", "chat completions"),
        ("/api/chat", "OpenAI-compatible"),
        ("/api/generate", "OpenAI-compatible"),
    ],
)
async def test_other_vendors_clients_are_told_what_to_set(world, path, hint):
    refused(await world.http.post(path, json={}), 404, "not_found", path, hint)
