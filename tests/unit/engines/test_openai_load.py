"""Whether a server has a model: by whatever list it has, else by asking for one token."""

import pytest

from hotswap_ray.core.errors import EngineLoadFailed, EngineUnavailable
from hotswap_ray.testing.upstream import Upstream, well
from tests.worlds.remote import engine_at


def listing(value, status=200):
    async def script(_request, reply):
        if isinstance(value, str):
            await reply.body(value, status)
        else:
            await reply.json(value, status)

    return script


def knowing(*names, says="no such model", status=404):
    """Answers for these models only."""

    async def script(request, reply):
        if request.body["model"] in names:
            await well(request, reply)
        else:
            await reply.json({"error": {"message": says}}, status)

    return script


async def load(upstream, **options):
    engine = engine_at(upstream.url, **options)
    await engine.start()
    await engine.stop()


LISTS = {
    "as OpenAI does": {"object": "list", "data": [{"id": "far"}]},
    "bare": [{"id": "far"}],
    "of names": ["near", "far"],
    "data of names": {"data": ["far"]},
    "named models": {"models": [{"name": "far"}]},
    "models with a model": {"models": [{"name": "The Far One", "model": "far"}]},
    "models with an id": {"models": [{"id": "far"}], "data": None},
    "as Ollama names it": {"data": [{"id": "far:latest"}]},
    "a page": {"data": [{"id": "far"}], "has_more": True, "last_id": "far"},
    "beside odd entries": {"data": [None, 3, {}, {"id": None}, {"id": "far"}]},
}


@pytest.mark.parametrize("form", LISTS)
async def test_a_model_is_found_in_every_form_of_list_and_not_asked(form):
    async with Upstream() as upstream:
        upstream.listing = listing(LISTS[form])
        await load(upstream)
    assert upstream.posts == []


NO_HELP = {
    "404": ({"error": {"message": "not found"}}, 404),
    "405": ("", 405),
    "403": ({"error": "this key may not list"}, 403),
    "500": ("oops", 500),
    "html": ("<html>", 200),
    "another object": ({"status": "ok"}, 200),
    "numbers": ([1, 2], 200),
    "empty": ({"object": "list", "data": []}, 200),
    "null": ({"object": "list", "data": None}, 200),
    "an alias": ({"data": [{"id": "far-2026-01-01"}]}, 200),
    "another page": ({"data": [{"id": "a"}], "has_more": True}, 200),
}


@pytest.mark.parametrize("case", NO_HELP)
async def test_where_no_list_shows_the_model_it_is_asked_for_one_token(case):
    async with Upstream(script=knowing("far")) as upstream:
        upstream.listing = listing(*NO_HELP[case])
        await load(upstream)
    (asked,) = upstream.posts
    assert asked.body["max_tokens"] == 1
    assert asked.is_chat


@pytest.mark.parametrize("status", [404, 400, 401, 500])
@pytest.mark.parametrize("check", ["models", "one_token"])
async def test_a_name_that_the_server_refuses_does_not_load_and_both_reasons_are_told(
    status, check
):
    async with Upstream(["b", "a"], knowing("a", status=status)) as upstream:
        with pytest.raises(EngineLoadFailed, match=r"no model 'far'; it has: a, b.*no such model"):
            await load(upstream, check=check)


async def test_without_a_list_the_message_says_what_was_said_instead_of_it():
    async with Upstream(script=knowing()) as upstream:
        upstream.listing = listing({"error": {"message": "nothing here"}}, 404)
        with pytest.raises(EngineLoadFailed, match=r"nothing here.*no such model") as raised:
            await load(upstream)
    assert str(upstream.port) in raised.value.message


async def test_the_operator_is_told_the_address_without_the_password():
    async with Upstream(["a"], knowing()) as upstream:
        url = upstream.url.replace("://", "://me:password@")
        engine = engine_at(url)
        with pytest.raises(EngineLoadFailed) as raised:
            await engine.start()
    assert upstream.url in raised.value.message
    assert "password" not in raised.value.message


@pytest.mark.parametrize(
    ("capabilities", "paths"),
    [
        (("chat", "tools"), ["/v1/chat/completions"]),
        (("completions",), ["/v1/completions"]),
        (("text_completion", "chat"), ["/v1/chat/completions", "/v1/completions"]),
        (("embeddings",), ["/v1/chat/completions"]),
    ],
)
async def test_the_model_is_asked_on_endpoints_that_it_declares(capabilities, paths):
    async with Upstream(script=knowing()) as upstream:
        with pytest.raises(EngineLoadFailed):
            await load(upstream, capabilities=capabilities, check="one_token")
    assert [request.path for request in upstream.posts] == paths


async def test_a_server_with_one_of_the_two_endpoints_loads():
    async def script(request, reply):
        if request.is_chat:
            await reply.json({"detail": "Not Found"}, 404)
        else:
            await well(request, reply)

    async with Upstream(script=script) as upstream:
        await load(upstream, check="one_token")
    assert len(upstream.posts) == 2


async def test_a_server_that_knows_only_the_new_name_of_the_limit_loads():
    async def script(request, reply):
        if "max_tokens" in request.body:
            await reply.json({"error": {"message": "use max_completion_tokens"}}, 400)
        else:
            await well(request, reply)

    async with Upstream(script=script) as upstream:
        await load(upstream, check="one_token")


async def test_the_one_token_is_asked_with_the_changes_of_the_operator():
    async with Upstream() as upstream:
        params = {"rename": {"max_tokens": "max_completion_tokens"}, "set": {"store": False}}
        await load(upstream, check="one_token", params=params)
    (asked,) = upstream.posts
    assert asked.body["max_completion_tokens"] == 1
    assert asked.body["store"] is False
    assert "max_tokens" not in asked.body


async def test_a_server_that_is_too_busy_for_one_token_has_the_model_as_far_as_is_known():
    async def busy(_request, reply):
        await reply.json({"error": {"message": "slow down"}}, 429)

    async with Upstream(script=busy) as upstream:
        await load(upstream, check="one_token")


async def test_nothing_is_asked_where_nothing_is_to_be_checked():
    async with Upstream(script=knowing()) as upstream:
        await load(upstream, check="none")
    assert upstream.seen == []


@pytest.mark.parametrize(("check", "posts"), [("models", 0), ("one_token", 1)])
async def test_a_server_that_does_not_answer_is_asked_once_and_refused(check, posts):
    async def drop(_request, reply):
        reply.drop()

    async with Upstream(script=drop) as upstream:
        upstream.listing = drop
        with pytest.raises(EngineLoadFailed, match="RemoteProtocolError"):
            await load(upstream, check=check, capabilities=("chat",))
    assert len(upstream.posts) == posts


@pytest.mark.parametrize("status", [404, 405, 401, 429])
async def test_a_server_without_a_list_is_healthy_and_not_asked_for_a_token(status):
    async with Upstream() as upstream:
        upstream.listing = listing({"error": "none"}, status)
        engine = engine_at(upstream.url, check="none")
        await engine.start()
        await engine.check_health()
        await engine.stop()
    assert upstream.posts == []


@pytest.mark.parametrize(("status", "path"), [(500, None), (503, None), (404, "/health")])
async def test_a_server_that_is_not_well_is_said_to_be_so(status, path):
    async with Upstream() as upstream:
        upstream.listing = listing({"error": "none"}, status)
        engine = engine_at(upstream.url, check="none", health_path=path)
        await engine.start()
        with pytest.raises(EngineUnavailable):
            await engine.check_health()
        await engine.stop()


async def test_only_the_path_of_health_is_asked_where_there_is_one():
    async with Upstream() as upstream:
        engine = engine_at(upstream.url, check="none", health_path="/health")
        await engine.start()
        await engine.check_health()
        await engine.stop()
    assert [request.path for request in upstream.seen] == ["/health"]
