"""The real vLLM engine through the whole system: swapped to, asked, swapped away, gone."""

import time

import httpx
import psutil
import pytest

from hotswap_ray.demo.fewshot import TASKS
from hotswap_ray.ports import free_port

pytestmark = pytest.mark.vllm
CAPITALS = TASKS["capitals"]


@pytest.fixture(scope="module")
def endpoint(local_ray, tmp_path_factory):
    """The system with one llama.cpp model; its URL."""
    from hotswap_ray import Arbiter, app, config

    golden, port = CAPITALS.golden(3), free_port()
    store = tmp_path_factory.mktemp("store") / "hotswap.sqlite"
    settings = config.Config.model_validate(
        {
            "models": {
                "llama": {
                    "id": "llama",
                    "engine": "llama_cpp",
                    "source": "gemma3-270m",
                    "resources": {"num_cpus": 0.5},
                }
            },
            "tasks": {"capitals": {"id": "capitals", "model": "llama", "golden": golden}},
            "default_task": "capitals",
            "server": {"port": port, "ingress_replicas": 1},
            "store": {"url": f"sqlite:///{store}"},
            "swap": {"bake_s": 0, "validation_timeout_s": 300},
            "cluster": {"ha_proxy": False, "throughput_optimized": False},
        }
    )
    app.start(settings)
    arbiter = Arbiter.connect()
    arbiter.wait_until_ready(300)
    yield f"http://127.0.0.1:{port}", arbiter
    arbiter.close()


def ask(url):
    """One capital, and the model that named it."""
    item = CAPITALS.items[0]
    answer = httpx.post(f"{url}/v1/completions", json=CAPITALS.body(item), timeout=120)
    assert answer.status_code == 200, answer.text
    text = answer.json()["choices"][0]["text"]
    return answer.headers["x-hotswap-model"], CAPITALS.score(item, text)


def test_vllm_is_swapped_to_and_away_and_leaves_no_process(endpoint, vllm_spec):
    url, arbiter = endpoint
    spec = vllm_spec("gemma-vllm").model_dump(mode="json", exclude={"id"})
    before = ask(url)
    arbiter.load("gemma-vllm", spec, timeout_s=900)
    workers = {row["model"]: row for row in arbiter.status()["models"]}
    to = arbiter.force_swap("capitals", "gemma-vllm", until="end")
    during = ask(url)
    chat = httpx.post(
        f"{url}/v1/chat/completions",
        json={
            "model": "gemma-vllm",
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 4,
        },
        timeout=120,
    )
    away = arbiter.force_swap("capitals", "llama", until="end")
    after = ask(url)

    assert (before, during, after) == (("llama", 1.0), ("gemma-vllm", 1.0), ("llama", 1.0))
    assert to["facts"]["golden"] == "3/3"
    assert workers["gemma-vllm"]["memory_bytes"] > 2**28
    assert chat.json()["usage"]["completion_tokens"] > 0
    assert away["phase"] == "succeeded"
    states = {row["model"]: row["state"] for row in arbiter.status()["models"]}
    assert states["gemma-vllm"] == "unloaded"
    deadline = time.monotonic() + 60
    while left := [
        p.pid for p in psutil.process_iter(["name"]) if "VLLM" in (p.info["name"] or "")
    ]:
        assert time.monotonic() < deadline, f"processes of vLLM left: {left}"
        time.sleep(0.2)
