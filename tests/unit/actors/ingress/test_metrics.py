"""Metrics of an ingress replica; Ray's are played by ones that can be read."""

from collections import Counter as Tally

import pytest

from hotswap_ray.actors.cluster.judge_watchdog import JudgeWatchdog
from hotswap_ray.actors.ingress import metrics as module
from hotswap_ray.actors.ingress.metrics import RequestMetrics
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import TooLarge
from hotswap_ray.core.outcome import Ending, Outcome

COUNTED = Tally()


class Metric:
    """Counts where a test sees it; insists on its tags as Ray's does."""

    def __init__(self, name, description="", *rest):
        assert description
        self._name = name
        self.info = {"tag_keys": rest[-1] if rest else ()}

    def inc(self, count, tags=None):
        assert set(tags or {}) == set(self.info["tag_keys"])
        COUNTED[self._name, *(tags or {}).values()] += count

    def observe(self, value, tags):
        COUNTED[self._name, *tags.values()] += 1


@pytest.fixture(autouse=True)
def _readable(monkeypatch):
    monkeypatch.setattr(module, "Counter", Metric)
    monkeypatch.setattr(module, "Histogram", Metric)
    COUNTED.clear()


def test_what_was_lost_or_not_judged_is_counted_once_however_often_it_is_looked_at():
    async def nobody(*_):
        raise AssertionError

    router, judge, lost = Router(ServerConfig(), nobody), JudgeWatchdog(nobody, nobody, 1), [0]
    metrics = RequestMetrics(router, judge, lambda: lost[0])
    metrics.observe([])
    assert not COUNTED
    lost[0], router.recorder.unjudged, router.explorer.failures = 4, 3, 2
    judge.errors, judge.undecided, router.shadows.sent, router.shadows.dropped = 5, 6, 7, 8
    metrics.observe([])
    metrics.observe([])
    lost[0] = 5
    metrics.observe([])
    assert COUNTED == {
        ("hotswap_outcomes_lost",): 5,
        ("hotswap_unjudged", "skipped"): 3,
        ("hotswap_unjudged", "error"): 5,
        ("hotswap_unjudged", "undecided"): 6,
        ("hotswap_policy_failures",): 2,
        ("hotswap_shadows", "sent"): 7,
        ("hotswap_shadows", "dropped"): 8,
    }


def test_requests_are_counted_by_how_they_ended_and_timed_where_a_model_is_behind_it():
    async def nobody(*_):
        raise AssertionError

    router = Router(ServerConfig(), nobody)
    metrics = RequestMetrics(router, JudgeWatchdog(nobody, nobody, 1), lambda: 0)
    router.turn_away(TooLarge("9 MiB"))
    metrics.observe(
        [
            Outcome("r1", "t", "a", 1, "active", 1.0, True, 5.0),
            Outcome("r2", "t", "a", 1, "active", 1.0, False, 5.0, ending=Ending.CANCELLED),
            Outcome("r3", "t", "b", 1, "canary", 1.0, False, 5.0, ending=Ending.REFUSAL),
        ]
    )
    counted = {key: n for key, n in COUNTED.items() if "tokens" not in key[0]}
    assert counted == {
        ("hotswap_requests", "t", "a", "ok", "active"): 1,
        ("hotswap_requests", "t", "a", "cancelled", "active"): 1,
        ("hotswap_requests", "t", "b", "refusal", "canary"): 1,
        ("hotswap_request_latency_seconds", "t", "a"): 1,
        ("hotswap_request_latency_seconds", "t", "b"): 1,
        ("hotswap_turned_away", "413 request_too_large"): 1,
    }
