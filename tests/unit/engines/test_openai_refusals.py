"""What a server refuses becomes the error that says whose fault it is, and tells no secret."""

import gzip
import json

import pytest

from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
    Saturated,
)
from hotswap_ray.testing.upstream import Upstream
from tests.worlds.remote import TEXT, engine_at, remote, streamed

NOON = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT


def refusing(status, body=None, headers=None):
    async def script(_request, reply):
        said = {"error": {"message": "the words", "code": "x"}} if body is None else body
        await reply.body(said if isinstance(said, str) else json.dumps(said), status, headers)

    return script


async def refused(script, **options):
    """The error of a request; whole and streamed it is the same."""
    async with Upstream(script=script) as upstream, remote(upstream, **options) as engine:
        raised = []
        for way in (engine.generate("completions", TEXT), streamed(engine)):
            with pytest.raises((EngineError, InvalidRequest, Overloaded)) as caught:
                await way
            raised.append(caught.value)
    assert {type(error) for error in raised} == {type(raised[0])}
    assert {error.args for error in raised} == {raised[0].args}
    return raised[0]


@pytest.mark.parametrize(
    ("statuses", "ours"),
    [
        ((400, 409, 413, 415, 418, 422, 451), InvalidRequest),
        ((429,), Overloaded),
        ((503, 529), Saturated),
        ((408, 504), EngineTimeout),
        ((500, 501, 502, 520, 599), EngineUnavailable),
        ((401, 402, 403, 404, 405, 407, 410), EngineError),
        ((300, 302, 304), EngineError),
    ],
)
async def test_each_status_has_its_error(statuses, ours):
    for status in statuses:
        error = await refused(refusing(status, "" if status == 304 else None))
        assert type(error) is ours, status
        assert f"status {status}" in error.message
        assert status < 400 or "the words" in error.message


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "x", "type": "invalid", "code": "context_length_exceeded"}},
        {"error": {"message": "x", "type": "exceed_context_size_error", "code": 400}},
        {"error": {"message": "x", "type": "ContextWindowExceededError"}},
        {"code": "context-length-exceeded", "message": "x"},
        {"object": "error", "message": "This model's maximum context length is 8.", "code": 400},
        {"error": {"message": "the request exceeds the available context size, try increasing it"}},
        {"error": "input length exceeds the context length"},
        {"message": "The prompt (length 9) is longer than the maximum model length of 8."},
        {"message": "The input (9 tokens) is longer than the model's context length (8 tokens)."},
        {"error": {"message": "prompt is too long: 9 tokens > 8 maximum"}},
        [{"error": {"message": "The input token count (9) exceeds the most tokens allowed (8)."}}],
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8"},
        {"detail": [{"msg": "the prompt has 9 tokens, but the context of m is 8 tokens"}]},
        "the number of tokens to keep is greater than the context length",
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_prompt_longer_than_the_context_is_told_apart_however_it_is_said(body, status):
    assert type(await refused(refusing(status, body))) is ContextExceeded


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 999. This model supports at most 8 completion tokens",
        "unknown field context_length",
        "deadline exceeded (while the context cancellation was awaited): context deadline exceeded",
        "temperature exceeds 2",
        "prompt must be a string",
    ],
)
async def test_another_mistake_of_the_client_is_not_taken_for_a_long_prompt(words):
    assert type(await refused(refusing(400, {"error": {"message": words}}))) is InvalidRequest


async def test_a_model_that_the_server_does_not_have_is_not_the_clients_fault():
    body = {"error": {"message": "no such model", "code": "model_not_found"}}
    assert type(await refused(refusing(400, body))) is EngineError


@pytest.mark.parametrize("status", [429, 503, 529, 500])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after": "Sun, 09 Sep 2001 01:47:10 GMT"}, 30),
        ({"retry-after": "Sun, 09 Sep 2001 01:00:00 GMT"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
async def test_when_to_try_again_is_told_in_seconds(status, headers, seconds):
    error = await refused(refusing(status, headers=headers), clock=lambda: NOON)
    assert error.retry_after_s == seconds


async def test_an_error_that_is_no_json_keeps_its_words():
    assert "Bad gateway" in (await refused(refusing(502, "Bad gateway"))).message


async def test_an_error_may_be_compressed_and_vast():
    async def script(_request, reply):
        body = gzip.compress(json.dumps({"detail": "no " * 200_000}).encode())
        await reply.body(body, 400, {"content-encoding": "gzip"})

    error = await refused(script)
    assert type(error) is InvalidRequest
    assert len(error.message) < 1200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["whole", "streamed"])
async def test_a_redirect_is_not_followed_and_its_host_is_named(status, method):
    async with Upstream() as elsewhere:
        location = f"{elsewhere.url}/chat/completions?token=secret"
        script = refusing(status, "", {"location": location})
        async with Upstream(script=script) as upstream, remote(upstream, api_key="k" * 9) as engine:
            with pytest.raises(EngineError, match=r"redirects to 127\.0\.0\.1") as raised:
                await (
                    streamed(engine)
                    if method == "streamed"
                    else engine.generate("completions", TEXT)
                )
        assert elsewhere.seen == []
    assert type(raised.value) is EngineError
    assert "secret" not in raised.value.message


async def test_errors_of_requests_tell_neither_key_nor_address():
    key, header = "abcdef-the-key", "header-secret"

    async def quoting(request, reply):
        words = (
            f"{request.headers['authorization']} {request.headers['x-tenant']}: no sk-ab***yz at "
        )
        await reply.json({"error": {"message": words + upstream.url}}, 401)

    async with Upstream(script=quoting) as upstream:
        options = {"api_key": key, "headers": {"x-tenant": header}}
        async with remote(upstream, **options) as engine:
            with pytest.raises(EngineError) as raised:
                await engine.generate("completions", TEXT)
    for secret in (key, header, "sk-ab", str(upstream.port), "127.0.0.1"):
        assert secret not in raised.value.message


async def test_errors_in_a_stream_tell_neither_key_nor_address():
    async def quoting(_request, reply):
        await reply.start()
        await reply.event({"error": {"message": f"{upstream.url} is full", "code": 429}})
        await reply.end()

    async with Upstream(script=quoting) as upstream, remote(upstream) as engine:
        with pytest.raises(Overloaded) as raised:
            await streamed(engine)
    assert raised.value.message == "remote: *** is full"


@pytest.mark.parametrize("reset", [True, False])
async def test_a_server_that_goes_away_is_unavailable_and_its_address_is_not_told(reset):
    async def script(_request, reply):
        reply.drop(reset=reset)

    async with Upstream(script=script) as upstream:
        url = upstream.url.replace("://", "://me:password@")
        engine = engine_at(url, check="none")
        await engine.start()
        with pytest.raises(EngineUnavailable) as raised:
            await engine.generate("completions", TEXT)
        upstream._server.close()
        with pytest.raises(EngineUnavailable) as refused_connection:
            await engine.generate("completions", TEXT)
        await engine.stop()
    for error in (raised.value, refused_connection.value):
        for secret in ("127.0.0.1", str(upstream.port), "me", "password"):
            assert secret not in error.message.replace("remote", "")
