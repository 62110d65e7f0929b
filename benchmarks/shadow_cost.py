"""What copying every request to a second model costs the clients of the first.

Two tasks have the same model; of one, each request is copied to a twin of that model
(``autoswap.shadow: 1``). They are asked in turn, block by block, and who goes first alternates,
so that a machine that drifts hurts both alike. The load is paced at a share of what a saturated
block reached: at saturation the copies of a small machine take the CPU of the clients. Called by
``rollouts.py``.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from common import Load, Row, median, percentile, wait_until

from hotswap_ray.store import Store

PLAIN, COPIED = "plain", "copied"
WARM_S = 1.0
"""Of each block: connections are made, and copies of the block before come to their ends."""


def block(port: int, task: str, seconds: float, concurrency: int, pace_s: float) -> list[Row]:
    """Ask a task for a while, half of it streamed; requests after the first second."""
    body = {"model": f"auto:{task}", "max_tokens": 8, "prompt": "hello"}
    load = Load(
        port=port,
        path="/v1/completions",
        bodies=[body, {**body, "stream": True}],
        concurrency=concurrency,
        duration_s=seconds + WARM_S,
        pace_s=pace_s,
    )
    rows = load.rows()
    since = min(row.start for row in rows) + WARM_S
    return [row for row in rows if row.start >= since]


def settled(count: Callable[[], Counter[str]]) -> Counter[str]:
    """What is counted, once it grows no more."""
    last: list[Counter[str]] = [Counter()]

    def same() -> bool:
        time.sleep(1)
        last.append(count())
        return last[-1] == last[-2]

    wait_until(same, 60, "all outcomes are stored")
    return last[-1]


def shadow_cost(
    port: int, store: Store, pairs: int, seconds: float, concurrency: int, share: float
) -> dict[str, Any]:
    """Compare both tasks.

    Args:
        port: Of the ingress.
        store: Its outcomes.
        pairs: Blocks of each task.
        seconds: Of a block.
        concurrency: Connections.
        share: Of the saturated rate, in (0, 1].

    Returns:
        ``shadow_p99_ratio``, the median over pairs of blocks, and all of them;
        ``shadow_sent`` and ``shadow_dropped``; the rate, the p99s, and requests that were lost.
    """

    def decided() -> Counter[str]:
        return Counter(store.outcomes_frame(COPIED, limit=10**6)["decision"])

    def warm() -> bool:
        block(port, COPIED, 0.5, 2, 0.1)
        return decided()["shadow"] > 0

    wait_until(warm, 60, "copies are made")
    full = block(port, PLAIN, 5, concurrency, 0)
    rate = share * len(full) / (max(row.end for row in full) - min(row.start for row in full))
    before, lost = settled(decided), 0
    p99: dict[str, list[float]] = {PLAIN: [], COPIED: []}
    for number in range(pairs):
        for task in (PLAIN, COPIED) if number % 2 == 0 else (COPIED, PLAIN):
            rows = block(port, task, seconds, concurrency, concurrency / rate)
            lost += sum(row.kind != "ok" for row in rows)
            p99[task].append(percentile([row.ms for row in rows], 0.99))
    counts = settled(decided) - before
    ratios = [new / old for new, old in zip(p99[COPIED], p99[PLAIN], strict=True)]
    return {
        "shadow_p99_ratio": round(statistics.median(ratios), 3),
        "shadow_p99_ratios": [round(ratio, 2) for ratio in ratios],
        "shadow_sent": counts["shadow"],
        "shadow_dropped": counts["active"],
        "shadow_rate_per_s": round(rate, 1),
        "shadow_lost": lost,
        "shadow_plain_p99_ms": round(median(p99[PLAIN]), 1),
    }
