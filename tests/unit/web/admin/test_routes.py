"""How the control plane finds a handler, and what it says when there is none."""

import subprocess
import sys

import httpx
import pytest

from tests.worlds.admin import STATUS, RecordingController, make_app


@pytest.fixture
async def client():
    transport = httpx.ASGITransport(make_app(RecordingController(), max_body_bytes=2048))
    async with httpx.AsyncClient(transport=transport, base_url="http://x/admin/") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "status", "GET"),
        ("GET", "swaps/s1/abort", "POST"),
        ("GET", "schedules/s", "PUT, POST, DELETE"),
        ("PATCH", "schedules/s/dry-run", "GET, POST"),
    ],
)
async def test_a_wrong_method_is_405_and_every_right_one_is_in_allow(client, method, path, allowed):
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    error = answer.json()["error"]
    assert error["code"] == "method_not_allowed"
    assert f"/admin/{path} takes {allowed.replace(', ', ' or ')} only" == error["message"]


async def test_head_is_refused_also_where_it_would_never_end(client):
    for path in ("status", "events"):
        answer = await client.head(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_a_slash_at_the_end_of_a_path_does_not_matter(client):
    answer = await client.get("status/")
    assert (answer.status_code, answer.json()) == (200, STATUS)


async def test_the_last_of_two_values_counts_and_an_empty_one_is_none(client):
    answer = await client.get("swaps?limit=1&limit=7&task=")
    assert answer.json() == {"swaps": [{"task": None, "limit": 7}]}


@pytest.mark.parametrize("path", ["models/m/load", "swaps/s1/promote", "schedules/s"])
async def test_a_body_over_the_limit_is_refused_by_every_path(client, path):
    answer = await client.post(path, content=b"x" * 2049)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_the_data_plane_does_not_load_the_framework():
    code = "import sys, hotswap_ray.web.openai_api; print('starlette' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
