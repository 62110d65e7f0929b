"""One life of a whole hotswap_ray on a given store; prints one JSON object, then waits to die."""

import json
import sys
import time

import httpx
import ray

from hotswap_ray import app, config
from hotswap_ray.actors.cluster.names import CONTROLLER, LEARNING

CONFIG = """
models:
  a: {{engine: simulated, resources: {{num_cpus: 0}}}}
  r: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}}}
tasks: {{t: {{model: a}}}}
server: {{port: {port}, ingress_replicas: 1}}
cluster: {{ha_proxy: false, throughput_optimized: false}}
store: {{url: "sqlite:///{store}"}}
swap: {{bake_s: 0}}
learning: {{flush_s: 0.05}}
"""


def call(name, method, *args):
    actor = ray.get_actor(name, namespace="hotswap")
    return ray.get(getattr(actor, method).remote(*args), timeout=120)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("condition did not hold within 60 s")
        time.sleep(0.05)


def chat(port):
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)


def main(life, port, store):
    ray.init(num_cpus=8, include_dashboard=False, namespace="hotswap", log_to_driver=False)
    app.start(config.loads(CONFIG.format(port=port, store=store)))
    until(lambda: chat(port).status_code == 200)
    if life == "first":
        spec = {"engine": "simulated", "resources": {"num_cpus": 0}}
        call(CONTROLLER, "load", "runtime", spec)
        call(CONTROLLER, "load", "spare", spec)
        record = call(CONTROLLER, "swap", "t", "runtime")
        call(CONTROLLER, "wait", record["swap_id"], 60)
        for _ in range(10):
            chat(port).raise_for_status()
        until(lambda: call(LEARNING, "summary")["outcomes"] >= 11)

    def ready():
        rows = call(CONTROLLER, "status")["models"]
        return sorted(row["model"] for row in rows if row["state"] == "ready")

    until(lambda: ready() == ["r", "runtime", "spare"])
    swaps = call(CONTROLLER, "swaps")
    seen = {
        "serves": chat(port).json()["model"],
        "generations": {
            row["model"]: row["generation"] for row in call(CONTROLLER, "status")["models"]
        },
        "swaps": [(swap["swap_id"], swap["phase"]) for swap in swaps],
        "journal": [row["phase"] for row in call(CONTROLLER, "journal", swaps[0]["swap_id"])],
        "outcomes": call(LEARNING, "summary")["outcomes"],
        "learnings": sorted(
            (row["task"], row["model"]) for row in call(LEARNING, "learnings") if row.get("model")
        ),
    }
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
