"""Schedules by command line and HTTP, in the file, and the traffic that they wait for."""

import asyncio
import json
from contextlib import contextmanager

import httpx
import pytest
from typer.testing import CliRunner

from hotswap_ray import config
from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.cli import app, output
from hotswap_ray.client.schedules import Schedules
from hotswap_ray.core.errors import ConfigError, InvalidRequest, NotFound
from hotswap_ray.core.outcome import Outcome
from tests.worlds.admin import RecordingController, make_app
from tests.worlds.controller import ControllerWorld
from tests.worlds.link import client_of

NIGHTLY = """
nightly:
  swaps: [{task: t, model: b}]
  cron: 0 3 * * *
  timezone: Europe/Berlin
  window: {start: 22:00, end: 06:00}
  quiet_below_rps: 2
"""


# --- the command line ------------------------------------------------------------------------


@pytest.fixture
async def world(tmp_path, monkeypatch, quick):
    made = ControllerWorld(tmp_path)
    await made.start()
    link = client_of(Schedules, made)

    @contextmanager
    def connected(address, namespace):
        yield link

    monkeypatch.setattr(output, "arbiter", connected)
    return made


async def hotswap(*arguments):
    return await asyncio.to_thread(CliRunner().invoke, app, ["schedule", *map(str, arguments)])


async def test_a_file_is_tried_set_listed_and_deleted(world, tmp_path):
    file = tmp_path / "nightly.yaml"
    file.write_text(NIGHTLY)
    tried = await hotswap("dry-run", file, "--hours", 48, "--json")
    assert [row["begins"] for row in json.loads(tried.stdout)] == [
        "2023-11-15T03:00:00+01:00",
        "2023-11-16T03:00:00+01:00",
    ]
    assert json.loads((await hotswap("list", "--json")).stdout) == []  # only tried
    said = await hotswap("set", file)
    assert said.stdout == "schedule nightly is due next 2023-11-15T03:00:00+01:00\n"
    (row,) = json.loads((await hotswap("list", "--json")).stdout)
    assert (row["schedule"], row["source"], row["spec"]["window"]["start"]) == (
        *("nightly", "runtime"),
        "22:00",
    )
    table = (await hotswap("dry-run", "nightly")).stdout
    assert "traffic below 2 requests/s" in table
    assert "t to b" in (await hotswap("list")).stdout
    assert (await hotswap("delete", "nightly")).stdout == "schedule nightly is deleted\n"
    assert isinstance((await hotswap("delete", "nightly")).exception, NotFound)


@pytest.mark.parametrize("text", ["nightly", "[1]", "a: b", "a: {b: ${NO}}"])
async def test_a_file_that_holds_no_schedules_is_refused(world, tmp_path, text):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    assert isinstance((await hotswap("set", file)).exception, ConfigError)
    assert isinstance((await hotswap("set", tmp_path / "none.yaml")).exception, ConfigError)


# --- HTTP ------------------------------------------------------------------------------------


async def test_schedules_over_http():
    controller, spec = RecordingController(), {"swaps": [], "cron": "x"}
    transport = httpx.ASGITransport(make_app(controller))
    async with httpx.AsyncClient(transport=transport, base_url="http://x/admin/") as client:
        for method, path, body in (
            ("GET", "schedules", None),
            ("PUT", "schedules/s", spec),
            ("POST", "schedules/s", spec),
            ("DELETE", "schedules/s", None),
            ("GET", "schedules/dry-run", None),
            ("GET", "schedules/s/dry-run?hours=1.5", None),
            ("POST", "schedules/s/dry-run", spec),
        ):
            answer = await client.request(method, path, json=body)
            assert answer.status_code == 200, (method, path, answer.text)
        assert (await client.get("schedules/s/dry-run?hours=x")).status_code == 400
        assert (await client.get("schedules/s")).status_code == 405
        controller.error = InvalidRequest("schedule 's': cron")
        assert (await client.put("schedules/s", json=spec)).status_code == 400
    assert [(method, args) for method, args, _ in controller.calls[:7]] == [
        ("schedules", ()),
        ("set_schedule", ("s", spec)),
        ("set_schedule", ("s", spec)),
        ("delete_schedule", ("s",)),
        ("schedule_dry_run", (None, 24.0)),
        ("schedule_dry_run", ("s", 1.5)),
        ("schedule_dry_run", ("s", 24.0, spec)),
    ]


# --- the file --------------------------------------------------------------------------------

BASE = "models: {a: {engine: simulated}}\ntasks: {chat: {model: a}}\nschedules:\n  s:\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("    swaps: [{task: chta, model: a}]\n    at: 2030-01-01T00:00Z\n", "no task 'chta'"),
        ("    swaps: [{task: chat, model: b}]\n    at: 2030-01-01T00:00Z\n", "no model 'b'"),
        ("    swaps: [{task: chat, model: a}]\n", "either at or cron"),
        ("    swaps: [{task: chat, model: a}]\n    cron: x\n", "5 fields"),
        ("    swap: []\n    cron: 0 3 * * *\n", "did you mean 'swaps'"),
    ],
)
def test_a_schedule_of_the_file_is_checked_with_the_file(text, said):
    with pytest.raises(ConfigError, match=said):
        config.loads(BASE + text, env={})


def test_a_schedule_of_the_file_has_its_key_as_id():
    text = "    swaps: [{task: chat, model: a}]\n    at: 2030-01-01T00:00:00Z\n"
    loaded = config.loads(BASE + text, env={})
    assert loaded.schedules["s"].id == "s"
    assert loaded.schedules["s"].at == "2030-01-01T00:00:00+00:00"


# --- traffic ---------------------------------------------------------------------------------


async def test_traffic_is_measured_over_a_minute_and_not_known_before(world):
    now_s = world.clock()
    learning = LearningActor(world.store, list(world.config.tasks.values()), world.clock)
    batch = [
        Outcome(f"r{n}", "t", "a", 1, "active", now_s + n / 10, True, 20.0, None, 1, 1, 0, None)
        for n in range(600)
    ]
    await learning.record(batch, "batch")
    assert await learning.rates() == {}
    world.clock.now_s += 60
    rates = await learning.rates()
    assert (rates["t"], rates["u"]) == (10.0, 0.0)
    world.clock.now_s += 30
    assert (await learning.rates())["t"] == pytest.approx(5, abs=0.1)
