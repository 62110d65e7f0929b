"""Lateness of an event loop, on a loop whose time is told."""

from hotswap_ray.actors.ingress import loop_lag
from hotswap_ray.actors.ingress.loop_lag import LATE_S, TICK_S, UNASKED_S, LoopLag


class FakeLoop:
    """Timers that fire when told, as late as told."""

    def __init__(self):
        self.now_s = 100.0
        self.timers = []

    def time(self):
        return self.now_s

    def call_at(self, due_s, callback, *args):
        self.timers.append((due_s, callback, args))

    def fire(self, late_s=0.0):
        due_s, callback, args = self.timers.pop()
        self.now_s = due_s + late_s
        callback(*args)


def test_a_loop_is_busy_while_its_timers_are_late_and_a_moment_longer(monkeypatch):
    loop, lag = FakeLoop(), LoopLag()
    monkeypatch.setattr(loop_lag.asyncio, "get_running_loop", lambda: loop)
    assert not lag.busy()
    loop.fire(LATE_S / 2)
    assert not lag.busy()
    loop.fire(0.02)
    assert lag.busy()
    ticks = 0
    while lag.busy():
        loop.fire()
        ticks += 1
    assert ticks * TICK_S < 0.3
    assert len(loop.timers) == 1


def test_nothing_is_measured_when_nobody_asks(monkeypatch):
    loop, lag = FakeLoop(), LoopLag()
    monkeypatch.setattr(loop_lag.asyncio, "get_running_loop", lambda: loop)
    lag.busy()
    for _ in range(round(UNASKED_S / TICK_S) + 1):
        if loop.timers:
            loop.fire()
    assert loop.timers == []
    assert not lag.busy()
    assert len(loop.timers) == 1
