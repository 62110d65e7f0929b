"""Webhooks against a real server: it answers, refuses, hangs, is down, or sends elsewhere."""

import asyncio
import hmac
import time

import pytest
from pydantic import ValidationError

from hotswap_ray.actors.controller.swaps import webhooks
from hotswap_ray.actors.controller.swaps.webhooks import sign
from hotswap_ray.config import Config
from hotswap_ray.core.spec.webhook import STOPPABLE, WebhookSpec
from hotswap_ray.core.swap.phases import TERMINAL, Phase
from tests.worlds.controller import ControllerWorld, make_config, make_world
from tests.worlds.crash import check_history, plain_swap, run_with_crash

ALONE = {"t": {"model": "a"}}
ACTED = [phase for phase in Phase if phase not in TERMINAL]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(webhooks, "RETRY_S", (0.01, 0.01))


def configured(*hooks, **swap):
    plain = make_config(tasks=ALONE, **swap).model_dump()
    return Config.model_validate({**plain, "webhooks": hooks})


async def failures(world, count):
    """The first failures that were recorded as events."""
    async with asyncio.timeout(10):
        while True:
            events = await world.controller.events(limit=1000)
            found = [row["doc"] for row in events if row["kind"] == "webhook_failed"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_every_phase_is_told_before_and_after_with_ids_that_are_unique(tmp_path, receiver):
    world = await make_world(tmp_path, configured({"url": receiver.url()}))
    record = await world.swap("t", "b", swap_id="s1")
    passed = [row["phase"] for row in await world.controller.journal("s1")]
    expected = [f"before:{phase}" for phase in passed[:-1]] + [f"after:{p}" for p in passed]
    await world.until(lambda: len(receiver.got) == len(expected))
    assert sorted(receiver.events()) == sorted(expected)
    before = [name for name in receiver.events() if name.startswith("before:")]
    assert before == expected[: len(before)]  # a swap waits for these, so they are in order
    for (_, headers, _), doc in zip(receiver.got, receiver.docs(), strict=True):
        assert headers["x-hotswap-delivery"] == doc["id"] == f"s1:{doc['event']}"
        assert headers["x-hotswap-event"] == doc["event"] == f"{doc['when']}:{doc['phase']}"
        assert "x-hotswap-signature" not in headers
        assert doc["swap"]["etag"]
        assert doc["when"] == "after" or doc["swap"]["phase"] == doc["phase"]
    assert record["phase"] == "succeeded"


async def test_only_the_events_that_were_asked_for_are_sent_and_signed(tmp_path, receiver):
    hook = {"url": receiver.url(), "events": ["before:switching", "succeeded"], "secret": "k3y"}
    world = await make_world(tmp_path, configured(hook))
    await world.swap("t", "b", swap_id="s1")
    await world.until(lambda: len(receiver.got) == 2)
    assert receiver.events() == ["before:switching", "after:succeeded"]
    for _, headers, body in receiver.got:
        digest = hmac.new(b"k3y", body, "sha256").hexdigest()
        assert headers["x-hotswap-signature"] == f"sha256={digest}" == sign("k3y", body)
        assert b"k3y" not in body


@pytest.mark.parametrize(
    ("path", "why"), [("/500", "HTTP 500"), ("/elsewhere", "HTTP 307"), ("/hang", "no answer")]
)
async def test_a_webhook_that_does_not_consent_stops_a_swap_before_its_switch(
    tmp_path, receiver, path, why
):
    hook = {"url": receiver.url(path), "events": ["before:switching"], "on_failure": "abort"}
    world = await make_world(tmp_path, configured({**hook, "timeout_s": 0.2}))
    record = await world.swap("t", "b")
    assert record["phase"] == "failed"
    assert record["error"].startswith("webhook_failed: webhook 127.0.0.1:")
    assert why in record["error"]
    assert (world.model_of("t"), world.nothing_is_left_of("b")) == ("a", True)
    assert [row["event"] for row in await failures(world, 1)] == ["before:switching"]
    assert [one for one, _, _ in receiver.got] == [path]  # no redirect was followed


@pytest.mark.parametrize("phase", sorted(STOPPABLE))
async def test_each_phase_before_the_switch_can_be_stopped(tmp_path, receiver, phase):
    hook = {"url": receiver.url("/500"), "events": [f"before:{phase}"], "on_failure": "abort"}
    world = await make_world(tmp_path, configured(hook))
    assert (await world.swap("t", "b"))["phase"] == "failed"
    assert (world.model_of("t"), world.nothing_is_left_of("b")) == ("a", True)


async def test_after_the_switch_nothing_is_stopped_any_more(tmp_path, receiver):
    late = [f"before:{phase}" for phase in ACTED if phase not in STOPPABLE]
    hook = {"url": receiver.url("/500"), "events": late, "on_failure": "abort"}
    world = await make_world(tmp_path, configured(hook))
    assert (await world.swap("t", "b"))["phase"] == "succeeded"
    assert {"before:draining", "before:baking", "before:retiring"} <= set(receiver.events())


async def test_a_server_that_is_down_loses_no_swap_and_every_failure_is_an_event(
    tmp_path, receiver
):
    receiver.close()
    world = await make_world(tmp_path, configured({"url": receiver.url("/T0KEN?key=s3cret")}))
    record = await world.swap("t", "b")
    phases = len(await world.controller.journal(record["swap_id"]))
    assert record["phase"] == "succeeded"
    found = await failures(world, 2 * phases - 1)
    assert {row["error"] for row in found} == {"ConnectError"}
    assert {row["swap_id"] for row in found} == {record["swap_id"]}
    assert not any("T0KEN" in str(row) or "s3cret" in str(row) for row in found)


async def test_a_server_that_hangs_delays_each_phase_by_its_timeout_at_most(tmp_path, receiver):
    hooks = [{"url": receiver.url("/hang"), "timeout_s": 0.1} for _ in range(3)]
    world = await make_world(tmp_path, configured(*hooks))
    started = time.monotonic()
    record = await world.swap("t", "b")
    spent_s = time.monotonic() - started
    phases = len(await world.controller.journal(record["swap_id"]))
    assert record["phase"] == "succeeded"
    assert spent_s < 0.1 * phases + 2  # not three times that


async def test_going_back_waits_for_no_webhook(tmp_path, receiver):
    hook = {"url": receiver.url("/hang"), "events": ["rolling_back"], "timeout_s": 30}
    world = await make_world(tmp_path, configured(hook))
    swap_id = await world.swap_until("baking", "t", "b", bake_s=600)
    async with asyncio.timeout(5):
        await world.controller.rollback("t")
        assert (await world.controller.wait(swap_id, 10))["phase"] == "rolled_back"
    await world.until(lambda: "before:rolling_back" in receiver.events())


async def test_an_operator_is_heard_while_a_webhook_is_waited_for(tmp_path, receiver):
    hook = {"url": receiver.url("/hang"), "events": ["before:loading"], "timeout_s": 30}
    world = await make_world(tmp_path, configured(hook))
    swap_id = await world.swap_until("loading", "t", "b")
    await world.until(lambda: receiver.got)
    async with asyncio.timeout(5):
        await world.controller.signal(swap_id, "abort")
        assert (await world.controller.wait(swap_id, 10))["phase"] == "failed"


@pytest.mark.parametrize("commits", [3, 5, 7, 8, 9, 10, 12, 15])
def test_a_controller_that_dies_between_phases_tells_each_at_least_once(
    tmp_path, receiver, commits
):
    acted = [phase for phase in ACTED if phase is not Phase.BAKING]  # ended by a promotion here
    events = [f"before:{phase}" for phase in acted]
    config = configured({"url": receiver.url(), "events": events})
    world, died = run_with_crash(ControllerWorld(tmp_path, config), commits, plain_swap)
    assert died
    passed = [phase for phase in check_history(world) if phase in acted]
    told = [(headers["x-hotswap-delivery"], name) for (_, headers, _), name in zip(
        receiver.got, receiver.events(), strict=True
    )]  # fmt: skip
    assert {name for _, name in told} == {f"before:{phase}" for phase in passed}
    assert {key for key, _ in told} == {f"s1:before:{phase}" for phase in passed}
    assert len(told) <= len(passed) + 1  # only the phase it died in is told again


@pytest.mark.parametrize(
    ("hook", "part"),
    [
        ({"url": "ftp://x/y"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://x", "events": ["loadin"]}, "did you mean 'loading'"),
        ({"url": "http://x", "events": ["during:loading"]}, "no phase, before:PHASE or after"),
        ({"url": "http://x", "events": ["before:failed"]}, "use after:failed"),
        ({"url": "http://x", "timeout_s": 0}, "timeout_s"),
        ({"url": "http://x", "on_failure": "explode"}, "on_failure"),
    ],
)
def test_a_webhook_that_makes_no_sense_is_refused(hook, part):
    with pytest.raises(ValidationError, match=part):
        WebhookSpec.model_validate(hook)


def test_a_secret_is_not_shown_and_an_empty_one_is_none():
    spec = WebhookSpec(url="http://x/T0KEN", secret="k3y")
    assert not any(word in repr(spec) for word in ("k3y", "T0KEN"))
    assert WebhookSpec.model_validate({"url": "http://x", "secret": ""}).secret is None
