"""Loads models of many shapes on a Ray with four logical GPUs; prints one JSON object."""

import json
import sys
import tempfile
import time

import ray
from ray import serve

from hotswap_ray import app, config
from hotswap_ray.actors.cluster.names import CONTROLLER
from hotswap_ray.core.errors import HotswapError
from hotswap_ray.engines.simulated import SimulatedEngine
from hotswap_ray.engines.vllm.engine import VllmEngine

CONFIG = """
models: {{a: {{engine: simulated, resources: {{num_cpus: 0}}}}}}
tasks: {{t: {{model: a}}}}
server: {{port: {port}}}
cluster: {{ha_proxy: false, throughput_optimized: false}}
store: {{url: "sqlite:///{store}"}}
swap: {{load_wait_s: 0.5, bake_s: 0}}
"""

SHARDED = "resources_script:ShardedEngine"


class ShardedEngine(SimulatedEngine):
    """Answers like the simulated engine and reserves like vLLM."""

    @classmethod
    def deployment_options(cls, spec):
        plain = spec.model_copy(update={"options": {}})
        return VllmEngine.deployment_options(plain)


def main(port):
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store.sqlite"
        ray.init(
            num_cpus=16,
            num_gpus=4,
            include_dashboard=False,
            namespace="hotswap",
            log_to_driver=False,
        )
        app.start(config.loads(CONFIG.format(port=port, store=store)))
        sys.stdout.write(json.dumps(scenes()) + "\n")
        ray.shutdown()


def call(method, *args):
    actor = ray.get_actor(CONTROLLER, namespace="hotswap")
    return ray.get(getattr(actor, method).remote(*args), timeout=120)


def gpus_free(expected, timeout_s=30):
    """GPUs that Ray calls free, as soon as they are as many as expected: it tells with a delay."""
    deadline = time.monotonic() + timeout_s
    while (free := ray.available_resources().get("GPU", 0)) != expected:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return free


def load(name, engine="simulated", gpus=4, **resources):
    """Load a model; how many replicas run and how many GPUs are free then, or the refusal."""
    spec = {"engine": engine, "resources": {"num_cpus": 1, **resources}, "load_timeout_s": 60}
    try:
        described = call("load", name, spec)
    except HotswapError as error:
        return {"error": error.code, "text": str(error), "apps": apps(name)}
    application = serve.status().applications[f"m-{name}-g{described['generation']}"]
    running = application.deployments["model"].replica_states.get("RUNNING", 0)
    return {"running": running, "gpus_free": gpus_free(gpus)}


def apps(name):
    return [app for app in serve.status().applications if app.startswith(f"m-{name}-")]


def scenes():
    found = {"one_gpu": load("one", gpus=3, num_gpus=1)}
    found["too_many_gpus"] = load("four", num_gpus=4)
    call("unload", "one")
    found["sharded"] = load("sharded", SHARDED, gpus=2, num_gpus=1, tensor_parallel=2)
    found["sharded_too_wide"] = load("wide", SHARDED, num_gpus=1, tensor_parallel=3)
    call("unload", "sharded")
    found["gpus_after"] = gpus_free(4)
    found["type"] = load("typed", num_gpus=1, accelerator_type="H100")
    found["cpus"] = load("cpus", num_cpus=99)
    found["replicas"] = load("three", replicas=3)
    found["autoscale"] = load("scaled", autoscale={"min_replicas": 2, "max_replicas": 3})
    record = call("swap", "t", "typed")
    found["swap"] = call("wait", record["swap_id"], 60)
    found["serving"] = call("status")["tasks"]["t"]["model"]
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]))
