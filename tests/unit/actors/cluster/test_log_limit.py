"""Warnings that come seldom however often there is cause."""

import logging

from hotswap_ray.actors.cluster.log_limit import LogLimit


def test_the_first_cause_is_told_at_once_and_then_one_a_span(caplog):
    now_s = [0.0]
    limit = LogLimit(logging.getLogger("hotswap.test"), 60, lambda: now_s[0])
    for at_s in (0, 1, 59, 60, 61, 200):
        now_s[0] = at_s
        limit.warn("cause at %d", at_s)
    assert [record.getMessage() for record in caplog.records] == [
        "cause at 0",
        "cause at 60",
        "cause at 200",
    ]
