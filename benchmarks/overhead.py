"""What hotswap_ray costs a request: against a bare Serve application on the same cluster.

The bare application is what one writes by hand: a FastAPI ingress that calls a model
deployment through a handle and passes its bytes on. It has the same engine, body, flags and
number of ingress replicas. Both are measured in turn (A B A B ...), warmed up.

    python benchmarks/overhead.py [--rounds 9] [--seconds 2]

Keys: ``throughput_ratio`` (requests per second at concurrency 16, ours through bare, the
median of the rounds), ``added_p50_ms`` (at concurrency 1), ``stream_throughput_ratio`` (an
engine without delays: we join chunks that come close together, the bare one sends each),
``stream_paced_ratio`` (a chunk every 25 ms at concurrency 128: nothing can be joined),
``cpu_ms_per_request`` (of the whole cluster, whatever else runs on the machine).
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
from common import Load, machine, median, percentile, report, running
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from ray import serve

from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.simulated import SimulatedEngine
from hotswap_ray.ports import free_port

MODELS = {
    "fast": {"tokens": 32},
    "paced": {"tokens": 32, "ttft_ms": 25, "token_ms": 25},
}
CONFIG = """
models:
  fast: {{engine: simulated, resident: true, resources: {{num_cpus: 0}},
          max_ongoing_requests: 1000, options: {fast}}}
  paced: {{engine: simulated, resident: true, resources: {{num_cpus: 0}},
           max_ongoing_requests: 1000, options: {paced}}}
tasks:
  t: {{model: fast}}
  p: {{model: paced}}
default_task: t
server: {{port: {port}, ingress_replicas: {replicas}}}
store: {{url: "sqlite:///{store}"}}
"""
WARM_S = 1.0
http = FastAPI()


class BareModel:
    """The engine and nothing else."""

    async def __init__(self, options: dict[str, Any]) -> None:  # type: ignore[misc]
        self._engine = SimulatedEngine(ModelSpec(id="bare", engine="simulated", options=options))
        await self._engine.start()

    async def generate(self, body: dict[str, Any]) -> bytes:
        """The whole answer."""
        return orjson.dumps(await self._engine.generate("chat/completions", body))

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """A frame per token."""
        async for chunk in self._engine.stream("chat/completions", body):
            if chunk["choices"]:
                yield b"data: " + orjson.dumps(chunk) + b"\n\n"
        yield b"data: [DONE]\n\n"


@serve.ingress(http)
class BareIngress:
    """Passes the model's bytes on."""

    def __init__(self, model: Any) -> None:
        self._generate = model.options(method_name="generate")
        self._stream = model.options(method_name="stream", stream=True)

    @http.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        """OpenAI's chat endpoint, as far as the benchmark needs it."""
        body = await request.json()
        if body.get("stream"):
            return StreamingResponse(self._stream.remote(body), media_type="text/event-stream")
        return Response(await self._generate.remote(body), media_type="application/json")


def deploy_bare(name: str, options: dict[str, Any], replicas: int) -> None:
    """Run a bare application at ``/<name>``."""
    actor = {"num_cpus": 0}
    model = serve.deployment(name="model", ray_actor_options=actor, max_ongoing_requests=1100)(
        BareModel
    ).bind(options)
    ingress = serve.deployment(
        name="bare", num_replicas=replicas, ray_actor_options=actor, max_ongoing_requests=1100
    )(BareIngress).bind(model)
    serve.run(ingress, name=name, route_prefix=f"/{name}")


def cluster_cpu_s() -> float:
    """Processor seconds of all processes of the cluster so far, which this process started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


class Sides:
    """Measures ours and the bare one alike."""

    def __init__(self, port: int, rounds: int, seconds: float) -> None:
        self._port = port
        self._rounds = rounds
        self._seconds = seconds

    def compare(self, *, model: str, stream: bool, concurrency: int) -> dict[str, list[float]]:
        """Rates and p50 of both in turn; one value a round."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for number in range(self._rounds):
            # The one that goes first changes, so that a drift favours neither.
            for side in ("ours", "bare") if number % 2 else ("bare", "ours"):
                rate, p50, cpu_ms = self._measure(side, model, stream, concurrency)
                found[side].append(rate)
                found[f"{side}_p50"].append(p50)
                found[f"{side}_cpu_ms"].append(cpu_ms)
        return found

    def _measure(
        self, side: str, model: str, stream: bool, concurrency: int
    ) -> tuple[float, float, float]:
        name = model if side == "ours" else "bare"
        prefix = "" if side == "ours" else f"/bare-{model}"
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Say something."}]}
        if side == "ours":
            body["model"] = "auto:t" if model == "fast" else "auto:p"
        else:
            body["model"] = "auto:b"
        if stream:
            body["stream"] = True
        used_s = cluster_cpu_s()
        rows = Load(
            port=self._port,
            path=f"{prefix}/v1/chat/completions",
            bodies=[body],
            concurrency=concurrency,
            duration_s=self._seconds + WARM_S,
        ).rows()
        used_s = cluster_cpu_s() - used_s
        wrong = [row for row in rows if row.kind != "ok" or row.body_models != [name]]
        if wrong:
            raise SystemExit(f"{side}: {len(wrong)} of {len(rows)} failed; first: {wrong[0]}")
        begin = min(row.start for row in rows) + WARM_S
        end = begin + self._seconds
        inside = [row for row in rows if begin <= row.end < end]
        p50 = percentile([row.ms for row in inside], 0.5)
        return len(inside) / self._seconds, p50, used_s / len(rows) * 1e3


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--ingress-replicas", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = CONFIG.format(
            port=free_port(),
            replicas=args.ingress_replicas,
            store=Path(folder, "hotswap.sqlite"),
            **MODELS,
        )
        with running(text) as settings:
            for name, options in MODELS.items():
                deploy_bare(f"bare-{name}", options, args.ingress_replicas)
            time.sleep(2)  # the proxy takes its new routes over
            sides = Sides(settings.server.port, args.rounds, args.seconds)
            found = {
                "whole": sides.compare(model="fast", stream=False, concurrency=16),
                "single": sides.compare(model="fast", stream=False, concurrency=1),
                "stream": sides.compare(model="fast", stream=True, concurrency=16),
                "paced": sides.compare(model="paced", stream=True, concurrency=128),
            }
    result: dict[str, Any] = {}
    for kind, key in (
        ("whole", "throughput_ratio"),
        ("stream", "stream_throughput_ratio"),
        ("paced", "stream_paced_ratio"),
    ):
        pairs = zip(found[kind]["ours"], found[kind]["bare"], strict=True)
        result[key] = round(median([ours / bare for ours, bare in pairs]), 3)
    single = found["single"]
    pairs = zip(single["ours_p50"], single["bare_p50"], strict=True)
    result["added_p50_ms"] = round(median([ours - bare for ours, bare in pairs]), 3)
    result["requests_per_s"] = {
        kind: {side: round(median(found[kind][side]), 1) for side in ("ours", "bare")}
        for kind in ("whole", "stream", "paced")
    }
    result["cpu_ms_per_request"] = {
        kind: {side: round(median(found[kind][f"{side}_cpu_ms"]), 3) for side in ("ours", "bare")}
        for kind in found
    }
    result["p50_ms"] = {side: round(median(single[f"{side}_p50"]), 3) for side in ("ours", "bare")}
    result["rounds"] = args.rounds
    result["ingress_replicas"] = args.ingress_replicas
    report({**result, "machine": machine()})


if __name__ == "__main__":
    main()
