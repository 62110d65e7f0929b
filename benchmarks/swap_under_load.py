"""What swaps cost the traffic: swaps, rollbacks and loads while clients keep asking.

Sixteen clients, every second request streamed, two ingress replicas. First steady traffic,
then swaps and rollbacks between two loaded models, then swaps to a model that has to be
loaded, with steady traffic in between. Every answer is checked: its end, and that the model
in its body is the one in its header and served the task at that time.

Beside these clients, agents (``agents.py``): conversations of 20 turns with tool loops, at two
tasks. After the above, both tasks get a canary that is promoted, a rollback, a canary that is
aborted, and 12 s in which the auto-swap tries the other model (a share of the conversations at
the one task, ``serve: policy`` at the other), with a swap and a rollback amid it.

    python benchmarks/swap_under_load.py
    python benchmarks/swap_under_load.py --pairs 2 --loads 1 --steady-s 1 --requests 100
    python benchmarks/swap_under_load.py --engine llama_cpp --pairs 15 --requests 500

Keys: ``requests, failed, hung, truncated, wrong_model, swaps`` (rollbacks and loads
included), ``commit_p99_ms`` (published until the last ingress confirmed), ``switched_p99_s``
(asked until the new model serves, both loaded), ``swap_whole_p99_s`` and ``rollback_p99_ms``
(asked until ended, as the operator waits: the old model's last answers are out; both stay
loaded; ``swap_and_unload_p99_s``: the old model is unloaded too),
``load_p99_ratio`` (p99 of requests that begin while a model loads, through that of steady
traffic, as clients see it: the median of the loads; ``load_p99_ratios`` has each) and
``recorded_p99_ratios`` (the same in the controller's own records).

Keys of the agents, under ``agents``: ``conversations`` (``keyed_conversations``: with an
``x-session-id``), ``turns, loops`` (turns with a call), ``agent_requests, agent_lost``,
``torn_loops`` (whose requests two models answered), ``moves`` (from one turn to the next to
another model), ``moved_without_commit`` (conversations with a move although no commit lies
between the two choices that changes who answers; see ``agent_moves.py``), ``moves_without_commit``
(such moves) and ``route_commits`` (of each task).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent_moves import Agents, Commits, judged
from common import (
    Load,
    Row,
    controller,
    machine,
    median,
    percentile,
    report,
    running,
    wait_until,
)

from hotswap_ray.ports import free_port
from hotswap_ray.store import Store

CONFIG = """
models:
  a: {{{engine}, resident: true{a}}}
  b: {{{engine}, resident: true{b}}}
  c: {{{engine}{c}}}
tasks:
  t: {{model: a, autoswap: {{candidates: [a, b], explore: 0.3, min_samples: 1000000}}}}
  p: {{model: a, autoswap: {{candidates: [a, b], serve: policy, min_samples: 1000000}}}}
default_task: t
server: {{port: {port}, ingress_replicas: 2, tool_result_wait_s: 3}}
store: {{url: "sqlite:///{store}"}}
swap: {{bake_s: 0, canary: {{settle_s: 0.5, check_s: 0.2, max_step_s: 60,
       guardrails: {{latency_p95: null, ttft_p95: null}}}}}}
"""
TASKS = ("t", "p")
EXPLORE_S = 12.0
ENGINES: dict[str, dict[str, str]] = {
    "simulated": {
        "engine": "engine: simulated, resources: {num_cpus: 0}, max_ongoing_requests: 64, "
        "context_tokens: 32768, capabilities: [chat, completions, tools]",
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

    def tried(self, model: str, asked: float, ended: float) -> None:
        """It may have answered as a candidate between these times."""
        self._served.append((model, asked, ended))

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

    def canary(self, task: str, model: str, *, is_aborted: bool = False) -> None:
        """A rollout of ``model`` that is rolled back, or aborted in its first step."""
        asked = time.monotonic()
        swap_id = controller("swap", task, model, canary="10,50")["swap_id"]
        if is_aborted:
            wait_until(
                lambda: controller("wait", swap_id, 0)["facts"].get("canary", {}).get("step"),
                60,
                "the canary's first step",
            )
            time.sleep(2)
            controller("signal", swap_id, "abort")
        record = controller("wait", swap_id, 120)
        if record["phase"] != ("failed" if is_aborted else "succeeded"):
            raise SystemExit(f"the canary ended as {record['phase']}: {record['error']}")
        if not is_aborted:
            time.sleep(2)
            controller("wait", controller("rollback", task)["swap_id"], 60)
        self._tried(model, asked)

    def explore(self, tasks: Sequence[str], model: str) -> None:
        """The auto-swap tries ``model`` for a while, in the middle of it a swap to it and back."""
        asked = time.monotonic()
        for mode, rest_s in (("on", EXPLORE_S), ("off", 1.0)):
            for task in tasks:
                controller("set_autoswap", task, mode)
            time.sleep(rest_s / 3)
            if mode == "on":
                for method, *more in (("swap", model), ("rollback",)):
                    for task in tasks:
                        controller("wait", controller(method, task, *more)["swap_id"], 60)
                    time.sleep(rest_s / 3)
        self._tried(model, asked)

    def _tried(self, model: str, asked: float) -> None:
        ended = time.monotonic()
        self.busy.append((asked, ended))
        self.timeline.tried(model, asked, ended)

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


def drive_trials(operator: Operator, steady_s: float) -> None:
    """Canaries and exploration at both tasks."""
    time.sleep(steady_s)
    for task in TASKS:
        operator.canary(task, "b")
        operator.canary(task, "b", is_aborted=True)
    operator.explore(TASKS, "b")
    time.sleep(steady_s)


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
    parser.add_argument("--agents", type=int, help="conversations at a time; 8 if simulated")
    args = parser.parse_args()
    if args.agents is None:
        args.agents = 8 if args.engine == "simulated" else 0
    timeline = Timeline("a")
    operator = Operator(timeline)
    with tempfile.TemporaryDirectory() as folder:
        text = CONFIG.format(
            port=free_port(), store=Path(folder, "hotswap.sqlite"), **ENGINES[args.engine]
        )
        with running(text) as settings, ExitStack() as stack:
            started = time.monotonic()
            if args.agents:
                agents = Agents(port=settings.server.port, tasks=TASKS, agents=args.agents)
                commits = stack.enter_context(Commits(Store(settings.store.url), TASKS))
            load = Load(
                port=settings.server.port,
                path="/v1/completions",
                bodies=[BODY, {**BODY, "stream": True}],
                concurrency=args.concurrency,
                min_requests=args.requests,
            )
            drive(operator, args.pairs, args.loads, args.steady_s)
            if args.agents:
                drive_trials(operator, args.steady_s)
            rows = load.rows()
            seconds = time.monotonic() - started
            of_agents = judged(agents.rows(), commits.of) if args.agents else None
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
            "agents": of_agents,
            "engine": args.engine,
            "machine": machine(),
        }
    )


if __name__ == "__main__":
    main()
