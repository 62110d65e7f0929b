"""What the project rests on that Ray does not promise; true of Ray 2.58.1, 2.59.0 and 2.60.0."""

import inspect

import pytest
from ray import serve
from ray.util import list_named_actors

pytestmark = pytest.mark.ray


def test_serve_deletes_an_application_without_waiting():
    assert "_blocking" in inspect.signature(serve.delete).parameters


def test_a_replica_actor_is_named_after_its_application_and_deployment(system):
    """`Fleet.kill_replicas` finds a replica whose constructor hangs by this."""
    app = system.controller("status")["tasks"]["epsilon"]["model"]
    names = [actor["name"] for actor in list_named_actors(all_namespaces=True)]

    assert [name for name in names if f"::m-{app}-g" in name and "#model#" in name] != []
    assert [name for name in names if "::hotswap#ingress#" in name] != []
