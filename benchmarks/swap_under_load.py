"""What swaps cost the traffic: swaps, rollbacks and loads while clients keep asking.

Sixteen clients, every second request streamed, two ingress replicas. First steady traffic,
then swaps and rollbacks between two loaded models, then swaps to a model that has to be
loaded, with steady traffic in between. Every answer is checked: its end, and that the model
in its body is the one in its header and served the task at that time.

    python benchmarks/swap_under_load.py
    python benchmarks/swap_under_load.py --engine llama_cpp --pairs 15 --requests 500

Keys: ``requests, failed, hung, truncated, wrong_model, swaps`` (rollbacks and loads
included), ``commit_p99_ms`` (published until the last ingress confirmed), ``switched_p99_s``
(asked until the new model serves, both loaded), ``swap_whole_p99_s`` and ``rollback_p99_ms``
(asked until ended, as the operator waits: the old model's last answers are out; both stay
loaded; ``swap_and_unload_p99_s``: the old model is unloaded too),
``load_p99_ratio`` (p99 of requests that begin while a model loads, through that of steady
traffic, as clients see it: the median of the loads; ``load_p99_ratios`` has each) and
``recorded_p99_ratios`` (the same in the controller's own records).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from common import (
    Load,
    Row,
    controller,
    machine,
    median,
    percentile,
    report,
    running,
)

from hotswap_ray.ports import free_port

CONFIG = """
models:
  a: {{{engine}, resident: true{a}}}
  b: {{{engine}, resident: true{b}}}
  c: {{{engine}{c}}}
tasks:
  t: {{model: a}}
default_task: t
server: {{port: {port}, ingress_replicas: 2}}
store: {{url: "sqlite:///{store}"}}
swap: {{bake_s: 0}}
"""
ENGINES: dict[str, dict[str, str]] = {
    "simulated": {
        "engine": "engine: simulated, resources: {num_cpus: 0}, max_ongoing_requests: 64",
        "a": ", options: {seed: 1, ttft_ms: 20, token_ms: 5, tokens: 8}",
        "b": ", options: {seed: 2, ttft_ms: 20, token_ms: 5, tokens: 8}",
        "c": ", options: {seed: 3, ttft_ms: 20, token_ms: 5, tokens: 8, load_s: 1}",
    },
    # Real weights, truly different: as shipped, without one layer, without two.
    "llama_cpp": {
        "engine": "engine: llama_cpp, resources: {num_cpus: 0.25}, context_tokens: 1024",
        "a": ", source: gemma3-270m",
        "b": ", source: 'gemma3-270m:drop=15'",
        "c": ", source: 'gemma3-270m:drop=14-15'",
    },
}
PROMPT = "Country: Japan\nCapital: Tokyo\nCountry: France\nCapital:"
BODY = {"model": "auto", "max_tokens": 8, "temperature": 0, "prompt": PROMPT}


class Timeline:
    """Which model could answer when: from the request for a swap until the end of the next."""

    def __init__(self, model: str) -> None:
        self._served: list[tuple[str, float, float]] = []
        self.model = model
        self._since = 0.0

    def switch(self, model: str, asked: float, ended: float) -> None:
        """A swap that was asked for and ended at these times."""
        self._served.append((self.model, self._since, ended))
        self.model, self._since = model, asked

    def allows(self, row: Row) -> bool:
        """Whether the model that answered could have been chosen for this request."""
        chosen_by = row.first or row.end
        served = [*self._served, (self.model, self._since, float("inf"))]
        return any(
            model == row.header_model and row.start <= until and chosen_by >= since
            for model, since, until in served
        )


class Operator:
    """Swaps and rolls back, and keeps what it saw."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.records: list[dict[str, Any]] = []
        self.seconds: dict[str, list[float]] = {"swap": [], "rollback": [], "load": [], "leave": []}
        self.loading: list[tuple[float, float]] = []
        self.busy: list[tuple[float, float]] = []

    def swap(self, model: str, kind: str = "swap") -> None:
        """Swap to ``model`` and wait for the end."""
        self._run(kind, model, lambda: controller("swap", "t", model))

    def rollback(self, model: str) -> None:
        """Go back to ``model``, which served before."""
        self._run("rollback", model, lambda: controller("rollback", "t"))

    def _run(self, kind: str, model: str, ask: Any) -> None:
        asked = time.monotonic()
        swap_id = ask()["swap_id"]
        record = controller("wait", swap_id, 120)
        ended = time.monotonic()
        if record["phase"] not in ("succeeded", "rolled_back"):
            raise SystemExit(f"{kind} to {model} ended as {record['phase']}: {record['error']}")
        self.timeline.switch(model, asked, ended)
        self.records.append(record)
        self.seconds[kind].append(ended - asked)
        self.busy.append((asked, ended))
        if kind == "load":
            self.loading.append((asked, ended))


def drive(operator: Operator, pairs: int, loads: int, steady_s: float) -> None:
    """The whole programme, beside running load."""
    time.sleep(steady_s * 2)
    for _ in range(pairs):
        operator.swap("b")
        operator.rollback("a")
    for _ in range(loads):
        time.sleep(steady_s)
        operator.swap("c", "load")
        operator.swap("a", "leave")  # c is unloaded again, since no task wants it
        asked = operator.busy[-1][0]
        operator.busy[-1] = (asked, time.monotonic() + 1.0)  # its process still ends


def switched(operator: Operator) -> list[float]:
    """Seconds from the request to the switch, of swaps between loaded models."""
    before = ("requested", "checking", "loading", "validating", "transferring", "switching")
    records = [
        record
        for record in operator.records
        if record["phase"] == "succeeded" and not record["facts"].get("loaded_here")
    ]
    return [sum(record["seconds"].get(phase, 0) for phase in before) for record in records]


def during(rows: list[Row], spans: list[tuple[float, float]]) -> list[float]:
    """Milliseconds of requests that began in one of the spans."""
    return [row.ms for row in rows if any(a <= row.start < b for a, b in spans)]


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=sorted(ENGINES), default="simulated")
    parser.add_argument("--pairs", type=int, default=20, help="swaps, each rolled back")
    parser.add_argument("--loads", type=int, default=8, help="swaps that load a model")
    parser.add_argument("--steady-s", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--requests", type=int, default=5000, help="fewest to send")
    args = parser.parse_args()
    timeline = Timeline("a")
    operator = Operator(timeline)
    with tempfile.TemporaryDirectory() as folder:
        text = CONFIG.format(
            port=free_port(), store=Path(folder, "hotswap.sqlite"), **ENGINES[args.engine]
        )
        with running(text) as settings:
            started = time.monotonic()
            load = Load(
                port=settings.server.port,
                path="/v1/completions",
                bodies=[BODY, {**BODY, "stream": True}],
                concurrency=args.concurrency,
                min_requests=args.requests,
            )
            drive(operator, args.pairs, args.loads, args.steady_s)
            rows = load.rows()
            seconds = time.monotonic() - started
    kinds = {
        kind: sum(row.kind == kind for row in rows) for kind in ("failed", "hung", "truncated")
    }
    for row in [row for row in rows if row.kind != "ok"][:3]:
        print("lost:", row)
    good = [row for row in rows if row.kind == "ok"]
    wrong = [r for r in good if r.body_models != [r.header_model] or not timeline.allows(r)]
    warm = [row for row in good if row.start > started + 2]
    first, last = warm[0].start, warm[-1].end
    edges = [first, *(edge for span in operator.busy for edge in span), last]
    steady = list(zip(edges[::2], edges[1::2], strict=True))
    steady_p99 = percentile(during(warm, steady), 0.99)
    ratios = [percentile(during(warm, [span]), 0.99) / steady_p99 for span in operator.loading]
    facts = [record["facts"] for record in operator.records]
    report(
        {
            "requests": len(rows),
            **kinds,
            "wrong_model": len(wrong),
            "swaps": len(operator.records),
            "commit_p99_ms": percentile([f["commit_ms"] for f in facts], 0.99),
            "commit_p50_ms": median([f["commit_ms"] for f in facts]),
            "switched_p99_s": round(percentile(switched(operator), 0.99), 3),
            "swap_whole_p99_s": round(percentile(operator.seconds["swap"], 0.99), 3),
            "swap_and_unload_p99_s": round(percentile(operator.seconds["leave"], 0.99), 3),
            "rollback_p99_ms": round(percentile(operator.seconds["rollback"], 0.99) * 1e3, 1),
            "rollback_p50_ms": round(median(operator.seconds["rollback"]) * 1e3, 1),
            "load_p99_ratio": round(median(ratios), 3),
            "load_p99_ratios": [round(ratio, 2) for ratio in ratios],
            "recorded_p99_ratios": [f["load_p99_ratio"] for f in facts if "load_p99_ratio" in f],
            "load_s": [round(value, 2) for value in operator.seconds["load"]],
            "steady_p50_ms": round(median(during(warm, steady)), 1),
            "steady_p99_ms": round(steady_p99, 1),
            "loading_p50_ms": round(median(during(warm, operator.loading)), 1),
            "requests_per_s": round(len(rows) / seconds, 1),
            "engine": args.engine,
            "machine": machine(),
        }
    )


if __name__ == "__main__":
    main()
