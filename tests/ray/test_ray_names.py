"""What the project rests on that Ray does not promise; true of Ray 2.58.1, 2.59.0 and 2.60.0."""

import inspect

import pytest
from ray import serve
from ray.util import list_named_actors

from hotswap_ray.web.around_serve import AroundServe, middlewares
from hotswap_ray.web.request_id import Ids

pytestmark = pytest.mark.ray


def test_serve_deletes_an_application_without_waiting():
    assert "_blocking" in inspect.signature(serve.delete).parameters


def test_serve_puts_middleware_around_its_servers_by_a_variable_of_the_environment():
    """`web/around_serve.py` numbers requests there, since Serve returns the number it reads."""
    from ray.serve._private import constants, http_util

    assert "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH" in vars(constants)
    (around,) = http_util.validate_http_proxy_callback_return(middlewares())
    assert around.cls is AroundServe


async def test_serve_returns_the_request_id_that_it_reads_or_adds_one_at_the_end():
    """Without the middleware, `web/request_id.py` knows Serve's own number by form and place."""
    from ray.serve._private.http_util import RequestIdMiddleware

    ids = Ids(behind_serve=True)

    async def once(*headers):
        seen, sent = [], []

        async def app(scope, receive, send):
            seen.append(ids.of(scope))
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "headers": list(headers)}
        await RequestIdMiddleware(app)(scope, None, send)
        (answered,) = [v.decode() for k, v in sent[0]["headers"] if k.lower() == b"x-request-id"]
        return *seen[0], answered

    own, label, answered = await once((b"host", b"x"))
    assert (own, label) == (answered, None)
    own, label, answered = await once((b"x-request-id", b"mine"), (b"host", b"x"))
    assert label == answered == "mine" != own


def test_a_replica_actor_is_named_after_its_application_and_deployment(system):
    """`Fleet.kill_replicas` finds a replica whose constructor hangs by this."""
    app = system.controller("status")["tasks"]["epsilon"]["model"]
    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]

    assert [name for name in names if f"::m-{app}-g" in name and "#model#" in name] != []
    assert [name for name in names if "::hotswap#ingress#" in name] != []
