"""One Ray cluster with a running hotswap_ray for the whole session; engines are simulated."""

import time

import httpx
import pytest
import ray

from hotswap_ray import app, config
from hotswap_ray.actors.cluster.names import CONTROLLER, LEARNING
from hotswap_ray.ports import free_port

TASKS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")

CONFIG = """
models:
  a: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options: {{seed: 1}}}}
  b: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options: {{seed: 2}}}}
  weak:
    {{engine: simulated, resources: {{num_cpus: 0}}, resident: true, options: {{answer: dunno}}}}
  strong:
    {{engine: simulated, resources: {{num_cpus: 0}}, resident: true, options: {{answer: Paris}}}}
tasks:
{tasks}
  quiz: &judged
    model: weak
    checks: [{{kind: contains, value: Paris}}]
    autoswap: &careless {{candidates: [weak, strong], cooldown_s: 0, look_s: 0.2, explore: 0.3}}
  advice:
    <<: *judged
    autoswap: {{<<: *careless, mode: advise, shadow: 1, shadow_at_once: 8}}
  choosy:
    model: a
    autoswap: {{explore: 0.5, min_samples: 1000000, look_s: 0.2, policy: fixed, policy_options:
                {{model: picky}}}}
default_task: alpha
server: {{port: {port}, api_keys: [test-key], admin_token: admin-key, first_byte_timeout_s: 20,
          tool_result_wait_s: 8}}
store: {{url: "sqlite:///{store}"}}
swap: {{bake_s: 0, bake_check_s: 0.2, load_wait_s: 2, drain_timeout_s: 30}}
learning: {{flush_s: 0.1}}
"""


def wait_until(condition, timeout_s=60, what="condition"):
    """Poll ``condition`` until it is truthy; its value is returned."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not hold within {timeout_s} s")


class System:
    """A running hotswap_ray, as tests speak to it."""

    def __init__(self, settings):
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.server.port}"
        self.http = httpx.Client(
            base_url=self.url, headers={"authorization": "Bearer test-key"}, timeout=60
        )

    def controller(self, method, *args, timeout=120, **kwargs):
        """Call the controller, again if it was just killed."""
        return self._call(CONTROLLER, method, args, kwargs, timeout)

    def learning(self, method, *args, timeout=60, **kwargs):
        """Call the learning actor."""
        return self._call(LEARNING, method, args, kwargs, timeout)

    def _call(self, name, method, args, kwargs, timeout):
        def attempt():
            try:
                actor = ray.get_actor(name, namespace="hotswap")
                return [ray.get(getattr(actor, method).remote(*args, **kwargs), timeout=timeout)]
            except (
                ray.exceptions.ActorUnavailableError,
                ray.exceptions.ActorDiedError,
                ValueError,
            ):
                return None

        return wait_until(attempt, timeout, f"{name}.{method}")[0]

    def load(self, model, timeout=120, **options):
        """Load a simulated model with these options."""
        spec = {"engine": "simulated", "resources": {"num_cpus": 0}, "options": options}
        return self.controller("load", model, spec, timeout=timeout)

    def swap(self, task, model, **options):
        """Swap and wait for the end; the record."""
        record = self.controller("swap", task, model, **options)
        return self.controller("wait", record["swap_id"], 60)

    def serves(self, task):
        """Model of a task now."""
        return self.controller("status")["tasks"][task]["model"]

    def chat(self, model="auto", **body):
        """One chat completion; the HTTP response."""
        payload = {"model": model, "messages": [{"role": "user", "content": "hi"}], **body}
        return self.http.post("/v1/chat/completions", json=payload)


@pytest.fixture(scope="session")
def system(tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "hotswap.sqlite"
    tasks = "\n".join(f"  {task}: {{model: a, fallback: b}}" for task in TASKS)
    settings = config.loads(CONFIG.format(tasks=tasks, port=free_port(), store=store))
    ray.init(num_cpus=64, include_dashboard=False, namespace="hotswap", log_to_driver=False)
    app.start(settings)
    running = System(settings)
    wait_until(lambda: running.http.get("/readyz").status_code == 200, what="ready")
    wait_until(
        lambda: {row["state"] for row in running.controller("status")["models"]} == {"ready"},
        what="both models loaded",
    )
    yield running
    ray.shutdown()
