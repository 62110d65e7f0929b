"""Rollouts under load: canaries that pass, pause, are ended by hand, or fail and go back.

Sixteen clients, every second request streamed, conversations of eight requests, two ingress
replicas, simulated models. Every answer is checked for its end, and every conversation for the
models that answered it.

    python benchmarks/rollouts.py [--rounds 4]

Then what copying every request to an equal model costs (``shadow_cost.py``), and how often
guardrails err (``rollout_errors.py``). Keys of the result:

* ``rollouts, requests, failed, hung, truncated``
* ``split_conversations``: that two models answered between a canary's begin and its end
* ``reaction_s``: from the moment at which the guardrails fail what has ended by then (the breach
  is provable) until the last request to the bad candidate began; the slowest rollout. It holds
  the way of the outcomes to the store, the wait for the next check, and the commit that takes
  the candidate out; not ``observation_s``, from its first request to that moment (median)
* ``bad_share``: share of its test's requests that a bad candidate got, median
* ``shadow_p99_ratio, shadow_sent, shadow_dropped`` and more of the copies
* ``simulated``: see ``rollout_errors.simulate``
* ``machine``
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Load, Row, controller, machine, median, report, running, wait_until
from rollout_errors import simulate
from shadow_cost import shadow_cost

from hotswap_ray.core.rollout.guardrails import Seen, check, overall
from hotswap_ray.core.spec.rollout import CanarySpec
from hotswap_ray.ports import free_port
from hotswap_ray.store import Store

CONFIG = """
models:
  a: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options: &quick
       {{seed: 1, ttft_ms: 20, token_ms: 5, tokens: 8}}}}
  b: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options: *quick}}
  bad: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options:
        {{seed: 3, ttft_ms: 20, token_ms: 5, tokens: 8, failure_rate: 0.2}}}}
tasks:
  t: {{model: a}}
  plain: &judged {{model: a, checks: [{{kind: contains, value: simulated}}]}}
  copied:
    <<: *judged
    autoswap: {{mode: advise, candidates: [b], shadow: 1, shadow_at_once: {at_once},
                min_samples: 1000000}}
server: {{port: {port}, ingress_replicas: 2}}
store: {{url: "sqlite:///{store}"}}
swap: {{bake_s: 0, canary: {{settle_s: 0.5, check_s: 0.5, max_step_s: 60}}}}
learning: {{flush_s: 0.5}}
"""
BODY = {"model": "auto", "max_tokens": 8, "prompt": "hello"}
PHASE_S = 0.05


class Operator:
    """Runs rollouts and keeps their records."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def rollout(self, model: str, canary: str, event: str | None = None) -> dict[str, Any]:
        """Begin one, let an operator speak in its canary, wait for its end."""
        swap_id = controller("swap", "t", model, canary=canary, compatibility="warn")["swap_id"]
        if event:
            while controller("wait", swap_id, 0)["facts"].get("canary", {}).get("step", 0) < 1:
                time.sleep(PHASE_S)
            controller("signal", swap_id, event)
            if event == "pause":
                time.sleep(1)
                controller("signal", swap_id, "resume")
        record = controller("wait", swap_id, 240)
        self.records.append(record)
        return record

    def back(self) -> None:
        """Give the task back for the next rollout."""
        controller("wait", controller("rollback", "t")["swap_id"], 60)


def drive(operator: Operator, rounds: int) -> None:
    """Five rollouts a round: pass, pause, promote, abort, and a bad one."""
    time.sleep(3)
    for _ in range(rounds):
        for event, expected in (
            (None, "succeeded"),
            ("pause", "succeeded"),
            ("promote", "succeeded"),
            ("abort", "failed"),
        ):
            record = operator.rollout("b", "10,50", event)
            if record["phase"] != expected:
                raise SystemExit(f"{event}: {record['phase']}: {record['error']}")
            if expected == "succeeded":
                operator.back()
        # One time in five it fails the request that it is asked before it gets any traffic.
        while "canary" not in (record := operator.rollout("bad", "5,50"))["facts"]:
            operator.records.pop()
        if "error_rate" not in record["error"]:
            raise SystemExit(f"the bad candidate ended as {record['phase']}: {record['error']}")


def split_conversations(rows: list[Row], operator: Operator) -> int:
    """Conversations that two models answered between a canary's begin and its end.

    Where the candidate fails, the active model gives its answers: such rollouts do not count.
    """
    clock = time.time() - time.monotonic()
    found = 0
    for record in operator.records:
        if record["to_model"] == "bad":
            continue
        journal = controller("journal", record["swap_id"])
        phases = [step["phase"] for step in journal]
        after = journal[phases.index("canary") + 1]["at_s"] - clock
        since = record["facts"]["canary"]["began_s"] - clock
        models: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows:
            if row.kind == "ok" and row.session and since <= row.start <= row.end <= after:
                models[row.session].add(str(row.header_model))
        found += sum(len(seen) > 1 for seen in models.values())
    return found


def reactions(operator: Operator, store: Store) -> dict[str, Any]:
    """How soon the bad candidates were out, from what became of the requests.

    A breach is provable once the product's guardrails fail what has ended by then, in whatever
    order it was looked at; the candidate is out when its last request began.
    """
    spec = CanarySpec().guardrails
    reaction_s, observation_s, shares = [], [], []
    for record in operator.records:
        if record["to_model"] != "bad":
            continue
        frame = store.outcomes_frame("t", None, record["facts"]["canary"]["began_s"], 10**6)
        frame = frame[(frame["at_s"] <= record["updated_at_s"]) & (frame["decision"] != "fallback")]
        end_s = (frame["at_s"] + frame["latency_ms"] / 1e3).to_numpy()
        of_bad = (frame["model"] == "bad").to_numpy()
        at_s = frame["at_s"].to_numpy()
        for provable_s in np.sort(end_s[of_bad]):
            known = end_s <= provable_s
            found = check(spec, seen(frame[known & ~of_bad]), seen(frame[known & of_bad]))
            if overall(found) == "failed":
                break
        reaction_s.append(float(at_s[of_bad].max() - provable_s))
        observation_s.append(float(provable_s - at_s[of_bad].min()))
        shares.append(float(of_bad.mean()))
    return {
        "reaction_s": round(max(reaction_s), 2),
        "reactions_s": [round(one, 2) for one in reaction_s],
        "observation_s": round(median(observation_s), 2),
        "bad_share": round(median(shares), 4),
    }


def seen(frame: pd.DataFrame) -> Seen:
    """Outcomes as the guardrails take them."""
    success, latency, ttft, quality, at_s = (
        frame[name].to_numpy(dtype=float, na_value=np.nan)
        for name in ("success", "latency_ms", "ttft_ms", "quality", "at_s")
    )
    none = np.full(len(frame), np.nan)
    return Seen(success, latency, ttft, quality, at_s, none, none)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="five rollouts each")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=6, help="blocks with copies, and without")
    parser.add_argument("--seconds", type=float, default=10, help="of each block")
    parser.add_argument("--share", type=float, default=0.6, help="of the saturated rate")
    parser.add_argument("--at-once", type=int, default=16, help="copies of an ingress replica")
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": machine()}
    operator = Operator()
    with tempfile.TemporaryDirectory() as folder:
        text = CONFIG.format(
            port=free_port(), store=Path(folder, "hotswap.sqlite"), at_once=args.at_once
        )
        with running(text) as settings:
            port, store = settings.server.port, Store(settings.store.url)
            if args.rounds:
                load = Load(
                    port=port,
                    path="/v1/completions",
                    bodies=[BODY, {**BODY, "stream": True}],
                    concurrency=args.concurrency,
                    conversation=8,
                )
                drive(operator, args.rounds)
                rows = load.rows()
                wait_until(lambda: len(store.outcomes_frame("t", limit=10**7)) >= len(rows), 60,
                           "all outcomes are stored")  # fmt: skip
                result |= of_clients(rows) | reactions(operator, store)
                result["rollouts"] = len(operator.records)
                result["split_conversations"] = split_conversations(rows, operator)
                print(result)
            if args.pairs:
                result |= shadow_cost(
                    port, store, args.pairs, args.seconds, args.concurrency, args.share
                )
                print(result)
    result["simulated"] = simulate()
    result["machine"]["load_average_at_end"] = machine()["load_average"]
    report(result)


def of_clients(rows: list[Row]) -> dict[str, Any]:
    """What the clients saw."""
    for row in [row for row in rows if row.kind != "ok"][:3]:
        print("lost:", row)
    kinds = ("failed", "hung", "truncated")
    lost = {kind: sum(row.kind == kind for row in rows) for kind in kinds}
    return {"requests": len(rows), **lost}


if __name__ == "__main__":
    main()
