"""A/B tests by command line, Python and HTTP."""

import asyncio
import json
from contextlib import contextmanager

import httpx
import pytest
from typer.testing import CliRunner

from hotswap_ray.cli import app, output
from hotswap_ray.client.ab_tests import ABTestClient
from hotswap_ray.core.errors import Conflict, EngineTimeout, InvalidRequest, NotFound
from tests.worlds.ab_test import ALL_RIGHT, HALF, few, many
from tests.worlds.admin import RecordingController, make_app
from tests.worlds.controller import ControllerWorld
from tests.worlds.link import client_of


@pytest.fixture
async def world(tmp_path, monkeypatch, quick):
    made = ControllerWorld(tmp_path)
    made.learning.rollouts = few(HALF, HALF)
    await made.start()
    made.link = client_of(ABTestClient, made)

    @contextmanager
    def connected(address, namespace):
        yield made.link

    monkeypatch.setattr(output, "arbiter", connected)
    return made


async def hotswap(*arguments):
    return await asyncio.to_thread(CliRunner().invoke, app, ["ab-test", *map(str, arguments)])


async def test_a_test_is_begun_listed_shown_drawn_and_stopped(world, tmp_path):
    said = await hotswap("start", "t", "b", "--weights", "20", "--test-id", "x", "--json")
    record = json.loads(said.stdout)
    assert (record["spec"]["weights"], record["requested_by"]) == ([0.2], "cli")
    assert "x" in (await hotswap("list")).stdout
    (row,) = json.loads((await hotswap("list", "--task", "t", "--json")).stdout)
    assert (row["id"], row["variants"]) == ("x", ["b"])
    runs = world.controller._ab_tests._runs
    await world.until(lambda: runs["x"].test.report)
    shown = (await hotswap("show", "x")).stdout
    assert "x: t a against b is running, shares b 20%" in shown
    assert "The test is running" in shown
    (open_test,) = (await world.controller.status())["open_ab_tests"]
    assert f"{output.ab_test_line(open_test)}\n" in shown
    assert not {"report", "history"} & open_test.keys()
    drawing = tmp_path / "x.svg"
    assert (await hotswap("show", "x", "--plot", drawing)).exit_code == 0
    assert drawing.read_text().startswith("<svg")
    wrong = await hotswap("show", "x", "--plot", tmp_path / "none" / "x.svg")
    assert isinstance(wrong.exception, InvalidRequest)
    assert isinstance((await hotswap("stop", "y")).exception, NotFound)
    stopped = await hotswap("stop", "x", "--if-match", "*")
    assert "is ending" in stopped.stdout or "is closing" in stopped.stdout
    assert (await asyncio.to_thread(world.link.ab_test_report, "x", 10))["phase"] == "ended"
    assert (await world.controller.status())["open_ab_tests"] == []


async def test_waiting_prints_the_report_and_promotes_the_winner(world):
    world.learning.rollouts = many(HALF, ALL_RIGHT)
    said = await hotswap("start", "t", "b", "--promote", "--wait", "--max-s", 600)
    assert said.exit_code == 0, said.exception
    assert "is ended" in said.stdout
    assert "b is better than a by +0.5" in said.stdout
    assert "promoted by swap promote-ab-" in said.stdout
    await world.until(lambda: world.model_of("t") == "b")


async def test_wrong_options_are_refused(world):
    assert isinstance(
        (await hotswap("start", "t", "b", "--weights", "x")).exception, InvalidRequest
    )
    assert isinstance((await hotswap("start", "t", "a")).exception, InvalidRequest)
    assert (await hotswap("start", "t", "b", "--metric", "beauty")).exit_code == 2
    assert (await hotswap("start", "t")).exit_code == 2
    begun = await asyncio.to_thread(world.link.ab_test, "t", ["b"])
    assert isinstance((await hotswap("start", "t", "c")).exception, Conflict)
    with pytest.raises(EngineTimeout, match="it goes on"):
        await asyncio.to_thread(
            world.link.ab_test, "t", ["b"], test_id=begun["id"], wait=True, timeout_s=0.05
        )
    await asyncio.to_thread(world.link.stop_ab_test, begun["id"])
    await asyncio.to_thread(world.link.ab_test_report, begun["id"], 10)


async def test_ab_tests_over_http():
    controller, spec = RecordingController(), {"variants": ["b"]}
    transport = httpx.ASGITransport(make_app(controller))
    async with httpx.AsyncClient(transport=transport, base_url="http://x/admin/") as client:
        for method, path, body, headers in (
            ("POST", "tasks/t/ab-test", spec, {"idempotency-key": "x"}),
            ("GET", "ab-tests?task=t&limit=3", None, {}),
            ("GET", "ab-tests/x?wait_s=1.5", None, {}),
            ("POST", "ab-tests/x/stop", {"promote": "b"}, {"if-match": '"e"'}),
            ("POST", "ab-tests/x/stop", None, {}),
        ):
            answer = await client.request(method, path, json=body, headers=headers)
            assert answer.status_code == 200, (method, path, answer.text)
        assert (await client.get("ab-tests/x?wait_s=x")).status_code == 400
        assert (await client.post("ab-tests/x/stop", json={"model": "b"})).status_code == 400
        controller.error = Conflict("A/B test y")
        assert (await client.post("tasks/t/ab-test", json=spec)).status_code == 409
    assert [(method, args) for method, args, _ in controller.calls[:5]] == [
        ("ab_test", ("t", spec, "x", "admin")),
        ("ab_tests", ("t", 3)),
        ("ab_test_report", ("x", 1.5)),
        ("stop_ab_test", ("x", "b", "admin", '"e"')),
        ("stop_ab_test", ("x", None, "admin", None)),
    ]


async def test_a_test_has_its_etag_as_a_header(world):
    record = await world.controller.ab_test("t", {"variants": ["b"]}, "x")
    transport = httpx.ASGITransport(make_app(world.controller))
    async with httpx.AsyncClient(transport=transport, base_url="http://x/admin/") as client:
        answer = await client.get("ab-tests/x")
        assert answer.headers["etag"] == f'"{answer.json()["etag"]}"'
        assert (
            await client.post("ab-tests/x/stop", headers={"if-match": '"y"'})
        ).status_code == 412
        assert (await client.post("ab-tests/x/stop")).json()["reason"] == "stopped"
    assert record["phase"] == "preparing"
    await world.controller.ab_test_report("x", 10)
