"""Rollouts under load: canaries that pass, pause, are ended by hand, or fail and go back.

Sixteen clients, every second request streamed, conversations of eight requests, two ingress
replicas, simulated models. Every answer is checked for its end, and every conversation for the
models that answered it.

    python benchmarks/rollouts.py [--rounds 4]

Keys: ``rollouts, requests, failed, hung, truncated``; ``split_conversations`` (conversations
that two models answered between a canary's begin and its end); ``reaction_s`` (from the first
failed request of
a bad candidate to its last request: the slowest of its rollouts) and
``bad_share`` (share of all requests of its test that a bad candidate got, median).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import Load, Row, controller, free_port, machine, median, report, running

CONFIG = """
models:
  a: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options: &quick
       {{seed: 1, ttft_ms: 20, token_ms: 5, tokens: 8}}}}
  b: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options: *quick}}
  bad: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options:
        {{seed: 3, ttft_ms: 20, token_ms: 5, tokens: 8, failure_rate: 0.2}}}}
tasks:
  t: {{model: a}}
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
        self.spans: list[tuple[float, float, str]] = []

    def rollout(self, model: str, canary: str, event: str | None = None) -> dict[str, Any]:
        """Begin one, let an operator speak in its canary, wait for its end."""
        asked = time.monotonic()
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
        self.spans.append((asked, time.monotonic(), model))
        return record

    def back(self) -> None:
        """Give the task back for the next rollout."""
        asked = time.monotonic()
        controller("wait", controller("rollback", "t")["swap_id"], 60)
        self.spans.append((asked, time.monotonic(), "a"))


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
        record = operator.rollout("bad", "5,50")
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


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="five rollouts each")
    parser.add_argument("--concurrency", type=int, default=16)
    args = parser.parse_args()
    operator = Operator()
    with tempfile.TemporaryDirectory() as folder:
        text = CONFIG.format(port=free_port(), store=Path(folder, "hotswap.sqlite"))
        with running(text) as settings:
            load = Load(
                port=settings.server.port,
                path="/v1/completions",
                bodies=[BODY, {**BODY, "stream": True}],
                concurrency=args.concurrency,
                conversation=8,
            )
            drive(operator, args.rounds)
            rows = load.rows()
            divided = split_conversations(rows, operator)
    kinds = {
        kind: sum(row.kind == kind for row in rows) for kind in ("failed", "hung", "truncated")
    }
    for row in [row for row in rows if row.kind != "ok"][:3]:
        print("lost:", row)
    bad = [(asked, ended) for asked, ended, model in operator.spans if model == "bad"]
    reactions, shares = [], []
    for asked, ended in bad:
        test = [row for row in rows if asked <= row.start <= ended]
        of_bad = [row for row in test if row.header_model == "bad"]
        shares.append(len(of_bad) / len(test))
        reactions.append(max(row.start for row in of_bad) - min(row.start for row in of_bad))
    report(
        {
            "rollouts": len(operator.records),
            "requests": len(rows),
            **kinds,
            "split_conversations": divided,
            "reaction_s": round(max(reactions), 2),
            "bad_share": round(median(shares), 4),
            "rolled_out": sum(r["phase"] == "succeeded" for r in operator.records),
            **machine(),
        }
    )


if __name__ == "__main__":
    main()
