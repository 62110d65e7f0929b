"""How requests travel: connections that die, odd framings, compressions, proxies, headers."""

import asyncio
import gzip
import json
import zlib

import pytest

from hotswap_ray.core.errors import ConfigError, EngineError, EngineUnavailable
from hotswap_ray.engines.openai import OpenAIOptions
from hotswap_ray.engines.openai.transport import environment_proxy
from hotswap_ray.testing.upstream import Upstream, chat_chunk, in_turn, well, whole_answer
from tests.worlds.remote import CHAT, TEXT, engine_at, remote, said, streamed

ANSWER = json.dumps(whole_answer("far answer", chat=True)).encode()


async def ask(engine, way):
    """The text of an answer, asked for whole or as a stream."""
    if way == "streamed":
        return said(await streamed(engine))
    answer = await engine.generate("chat/completions", CHAT)
    return answer["choices"][0]["message"]["content"]


def dying(how):
    """Gives up a connection that was kept alive, after the request was read."""

    async def script(request, reply):
        if request.number == 1:
            await well(request, reply)
            return
        if how == "half a head":
            await reply.raw("HTTP/1.1 200 OK\r\ncontent-")
        if how == "half an answer":
            await reply.raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")
        reply.drop(reset=how == "reset")

    return script


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("way", ["whole", "streamed"])
async def test_a_request_on_a_dead_connection_is_sent_once_more_on_a_new_one(how, way):
    async with Upstream(script=dying(how)) as upstream, remote(upstream) as engine:
        assert await ask(engine, "whole") == "far answer"
        assert await ask(engine, way) == "far answer"
    assert [request.connection for request in upstream.posts] == [1, 1, 2]
    assert upstream.posts[1].body == upstream.posts[2].body


@pytest.mark.parametrize("how", ["half a head", "half an answer"])
@pytest.mark.parametrize("way", ["whole", "streamed"])
async def test_a_request_that_got_a_byte_is_not_sent_again(how, way):
    async with Upstream(script=dying(how)) as upstream, remote(upstream) as engine:
        await ask(engine, "whole")
        with pytest.raises(EngineUnavailable):
            await ask(engine, way)
    assert len(upstream.posts) == 2


async def test_a_request_on_a_new_connection_is_not_sent_again():
    async def drop(_request, reply):
        reply.drop()

    async with Upstream(script=drop) as upstream, remote(upstream, max_retries=3) as engine:
        with pytest.raises(EngineUnavailable):
            await ask(engine, "whole")
    assert len(upstream.posts) == 1


async def test_the_second_sending_is_the_last():
    async def script(request, reply):
        if len(upstream.posts) == 1:
            await well(request, reply)
        else:
            reply.drop()

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        await ask(engine, "whole")
        with pytest.raises(EngineUnavailable):
            await ask(engine, "whole")
    assert len(upstream.posts) == 3


async def test_many_dead_connections_at_once_lose_no_request():
    async def script(request, reply):
        if request.number == 1:
            await well(request, reply)
        else:
            reply.drop()

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        for _ in range(2):
            answers = await asyncio.gather(*(ask(engine, "whole") for _ in range(8)))
            assert answers == ["far answer"] * 8


async def test_connections_are_kept_alive():
    async with Upstream() as upstream, remote(upstream) as engine:
        for _ in range(3):
            for way in ("whole", "streamed"):
                await ask(engine, way)
    assert upstream.connections == 1


FRAMED = {
    "until the end, 1.0": b"HTTP/1.0 200 OK\r\n\r\n" + ANSWER,
    "until the end, 1.1": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + ANSWER,
    "with a length, 1.0": b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n%s"
    % (len(ANSWER), ANSWER),
    "in chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"".join(b"%X;x=y\r\n%c\r\n" % (1, byte) for byte in ANSWER)
    + b"0\r\nx-trailer: 1\r\n\r\n",
    "after a hint": b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n"
    + b"content-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER),
    "after blank lines": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\n\n \n" + ANSWER,
    "with a mark of the byte order": b"HTTP/1.0 200 OK\r\n\r\n\xef\xbb\xbf" + ANSWER,
}


@pytest.mark.parametrize("how", FRAMED)
@pytest.mark.parametrize("way", ["whole", "streamed"])
async def test_an_answer_is_whole_however_it_is_framed(how, way):
    async def script(_request, reply):
        await reply.raw(FRAMED[how], piece=7)
        reply.drop()

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        assert await ask(engine, way) == "far answer"


@pytest.mark.parametrize("way", ["whole", "streamed"])
async def test_an_answer_that_is_shorter_than_it_says_is_no_answer(way):
    async def script(_request, reply):
        await reply.head(200, {"content-length": str(len(ANSWER) + 1)})
        await reply.raw(ANSWER)
        reply.drop()

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        with pytest.raises(EngineUnavailable):
            await ask(engine, way)


PACKED = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate without a head": lambda data: zlib.compress(data)[2:-4],
}


@pytest.mark.parametrize("how", PACKED)
async def test_compressed_answers_are_read(how):
    headers = {"content-encoding": how.split()[0]}
    chunks = [json.dumps(chunk) for chunk in (chat_chunk("far"), chat_chunk(" answer", "stop"))]
    events = "".join(f"data: {chunk}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

    async def script(request, reply):
        if request.body["stream"]:
            await reply.start(headers=headers)
            await reply.part(PACKED[how](events.encode()), piece=3)
            await reply.end()
        else:
            await reply.body(PACKED[how](ANSWER), headers=headers)

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        for way in ("whole", "streamed"):
            assert await ask(engine, way) == "far answer"


async def test_what_is_no_gzip_though_it_says_so_is_an_error_of_the_server():
    async def script(_request, reply):
        await reply.body(ANSWER, headers={"content-encoding": "gzip"})

    async with Upstream(script=script) as upstream, remote(upstream) as engine:
        with pytest.raises(EngineError):
            await ask(engine, "whole")


async def through_a_proxy(request, reply):
    """A proxy that answers for the server."""
    await reply.body(json.dumps(whole_answer("by proxy", chat=True)))


PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture
def bare_environment(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


async def test_a_proxy_is_used_with_its_login_where_it_is_named():
    async with Upstream(script=through_a_proxy) as proxy:
        address = f"http://me:secret@127.0.0.1:{proxy.port}"
        engine = engine_at("http://gpu.invalid:8000/v1", check="none", proxy=address)
        await engine.start()
        assert await ask(engine, "whole") == "by proxy"
        await engine.stop()
    (request,) = proxy.seen
    assert request.path == "http://gpu.invalid:8000/v1/chat/completions"
    assert request.headers["proxy-authorization"].startswith("Basic ")


async def test_the_proxy_of_the_environment_is_used_only_where_it_is_trusted(bare_environment):
    async with Upstream(script=through_a_proxy) as proxy, Upstream() as upstream:
        bare_environment.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        async with remote(upstream) as engine:
            assert await ask(engine, "whole") == "far answer"
        async with remote(upstream, trust_env=True) as engine:
            assert await ask(engine, "whole") == "by proxy"
        bare_environment.setenv("no_proxy", "127.0.0.1")
        async with remote(upstream, trust_env=True) as engine:
            assert await ask(engine, "whole") == "far answer"
        assert len(proxy.seen) == 1


def test_the_environment_may_name_a_proxy_for_all_and_without_a_scheme(bare_environment):
    url = OpenAIOptions(base_url="http://gpu:8000/v1").url
    assert environment_proxy(url) is None
    bare_environment.setenv("all_proxy", "proxy:3128")
    assert environment_proxy(url) == "http://proxy:3128"
    bare_environment.setenv("no_proxy", "gpu")
    assert environment_proxy(url) is None


async def test_headers_of_the_operator_are_sent_with_each_request():
    headers = {"X-Tenant": "blue", "Authorization": "Token abc"}
    async with Upstream() as upstream, remote(upstream, headers=headers) as engine:
        await ask(engine, "whole")
        await engine.check_health()
    for request in upstream.seen:
        assert request.headers["x-tenant"] == "blue"
        assert request.headers["authorization"] == "Token abc"


@pytest.mark.parametrize(
    ("given", "sent"),
    [({"api_key": "abc"}, "Bearer abc"), ({"api_key": ""}, None), ({}, None)],
)
async def test_a_key_is_sent_once_and_an_empty_one_not_at_all(given, sent):
    async with Upstream() as upstream, remote(upstream, **given) as engine:
        await ask(engine, "whole")
    assert upstream.posts[0].headers.get("authorization") == sent


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"authorization": "a"}, "api_key": "b"},
        {"headers": {"authorization": "a", "Authorization": "b"}},
        {"base_url": "http://me:secret@server/v1", "api_key": "b"},
        {"headers": {"no name": "a"}},
        {"headers": {"x": "a\r\ny: b"}},
        {"headers": {"content-length": "3"}},
        {"proxy": "server:80"},
        {"proxy": "socks5://server:80"},
        {"base_url": "http:///v1"},
        {"base_url": "http://server:port/v1"},
        {"params": {"set": {"model": "other"}}},
        {"params": {"sett": {}}},
        {"check": "never"},
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=r"models\.remote\.options") as raised:
        engine_at(**{"url": "http://server/v1", **options})
    assert "secret" not in str(raised.value)


def test_values_of_headers_keys_and_proxies_are_not_shown():
    options = OpenAIOptions(
        base_url="http://server/v1",
        headers={"x-tenant": "secret-1"},
        api_key="secret-2",
        proxy="http://me:secret-3@proxy",
    )
    assert "secret" not in f"{options!r} {options} {options.model_dump_json()}"


async def test_what_a_server_gets_is_the_body_without_nulls_and_with_the_operators_changes():
    params = {
        "default": {"top_p": 0.5, "max_completion_tokens": 99, "seed": 1},
        "rename": {"max_tokens": "max_completion_tokens"},
        "drop": ["user", "stream_options"],
        "set": {"store": False},
    }
    body = {**TEXT, "max_tokens": 5, "seed": 2, "user": "u", "stop": None, "store": True}
    async with Upstream() as upstream, remote(upstream, params=params) as engine:
        await engine.generate("completions", body)
        await streamed(engine, body, "completions")
    whole, stream = (request.body for request in upstream.posts)
    expected = {"prompt": "hi", "max_completion_tokens": 5, "seed": 2, "top_p": 0.5, "store": False}
    assert whole == {**expected, "model": "far", "stream": False}
    assert stream == {**expected, "model": "far", "stream": True}


async def test_nulls_are_absent_and_streams_ask_for_their_usage():
    body = {**CHAT, "max_tokens": None, "tools": None, "stream_options": None, "temperature": 0}
    async with Upstream() as upstream, remote(upstream) as engine:
        await engine.generate("chat/completions", body)
        await streamed(engine, body)
    whole, stream = (request.body for request in upstream.posts)
    assert whole == {**CHAT, "temperature": 0, "model": "far", "stream": False}
    assert stream == {**whole, "stream": True, "stream_options": {"include_usage": True}}


async def test_a_request_that_fails_takes_no_connection_of_the_next():
    async def broken(_request, reply):
        await reply.json({"error": {"message": "no"}}, 500)

    async with (
        Upstream(script=in_turn(broken, broken, well)) as upstream,
        remote(upstream) as engine,
    ):
        for way in ("whole", "streamed"):
            with pytest.raises(EngineUnavailable):
                await ask(engine, way)
        assert await ask(engine, "whole") == "far answer"
    assert upstream.connections == 1
