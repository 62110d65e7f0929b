"""Real llama.cpp models through the whole system, as `hotswap serve` starts it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import yaml

import hotswap_ray
from hotswap_ray.demo.fewshot import TASKS
from hotswap_ray.engines.weights.cache import default_cache_dir
from hotswap_ray.ports import free_port
from tests.ray.conftest import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.llama]

QUICKSTART = Path(hotswap_ray.__file__).parents[1] / "deployments" / "quickstart.yaml"
READY_S = 300


class Served:
    """A `hotswap serve` of the quickstart's models, spoken to as its users do."""

    def __init__(self, folder, process, port):
        self.process = process
        self.folder = folder
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=READY_S)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")

    def is_ready(self):
        assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def states(self):
        return {row["model"]: row["state"] for row in self.get("status")["models"]}

    def get(self, path):
        return self.http.get(f"/admin/{path}").raise_for_status().json()

    def swap(self, task, model):
        """Swap and wait for the end: the record."""
        body = {"model": model, "bake_s": 0, "wait_s": READY_S, "until": "end"}
        return self.http.post(f"/admin/tasks/{task}/swap", json=body).raise_for_status().json()

    def load(self, model, **spec):
        return self.http.post(
            f"/admin/models/{model}/load", json={"engine": "llama_cpp", **SMALL, **spec}
        )

    def ask(self, task, item, **how):
        """A few-shot question as a completion: its answer and who gave it."""
        body = TASKS[task].body(item, f"auto:{task}")
        raw = self.client.completions.with_raw_response.create(**body, **how)
        return raw.parse().choices[0].text, raw.headers["x-hotswap-model"]

    def processes(self, model):
        """Replica processes of a model."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found.append(process.cmdline()[:1])
            except psutil.NoSuchProcess:
                continue
        return [words for words in found if words and f"ServeReplica:m-{model}-g" in words[0]]


SMALL = {"context_tokens": 2048, "resources": {"num_cpus": 0.25}}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    port = free_port()
    config = yaml.safe_load(QUICKSTART.read_text())
    config["server"] = {**config.get("server", {}), "port": port}
    config["store"] = {"url": f"sqlite:///{folder}/store.sqlite"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    env = {**os.environ, "HOME": str(folder), "HOTSWAP_CACHE": str(default_cache_dir())}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "hotswap", "serve", folder / "config.yaml"],
            env=env,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Served(folder, process, port)
    try:
        wait_until(running.is_ready, READY_S, "ready")
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0


def test_chat_and_completions_are_answered_by_real_models_whole_and_streamed(served):
    item = TASKS["capitals"].items[0]
    body = TASKS["capitals"].body(item, "auto:capitals")
    whole = served.client.completions.create(**body)
    assert TASKS["capitals"].score(item, whole.choices[0].text) == 1
    assert whole.usage.prompt_tokens > 10
    assert whole.usage.completion_tokens > 0
    pieces = served.client.completions.create(**body, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text

    messages = [{"role": "user", "content": TASKS["capitals"].prompt(item)}]
    how = {"model": "auto", "messages": messages, "max_tokens": 12, "temperature": 0}
    chat = served.client.chat.completions.create(**how)
    assert chat.choices[0].message.content.strip()
    chunks = served.client.chat.completions.create(**how, stream=True)
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == chat.choices[0].message.content


def test_a_prompt_over_the_context_is_a_bad_request(served):
    with pytest.raises(openai.BadRequestError, match="context"):
        served.client.completions.create(model="auto", prompt="word " * 4000)


def test_a_swap_between_real_models_validates_the_golden_prompts_and_the_answers_are_its_own(
    served,
):
    item = TASKS["capitals"].items[1]
    _, before = served.ask("capitals", item)
    record = served.swap("capitals", "quality")
    answer, after = served.ask("capitals", item)
    assert (before, after) == ("balanced", "quality")
    assert record["phase"] == "succeeded"
    assert re.fullmatch(r"[23]/3", record["facts"]["golden"])
    assert record["facts"]["memory_bytes"] > 100 * 2**20
    assert TASKS["capitals"].score(item, answer) == 1

    back = served.http.post("/admin/tasks/capitals/rollback", json={"wait_s": READY_S})
    assert back.json()["phase"] == "rolled_back"
    assert served.ask("capitals", item)[1] == "balanced"


def test_a_model_that_answers_garbage_is_refused_by_the_golden_prompts_and_leaves_nothing(served):
    wait_until(lambda: served.states()["quality"] == "unloaded", 60, "quality retired")
    before = served.states()
    body = {**SMALL, "engine": "llama_cpp", "source": "gemma3-270m:drop=10-15"}
    assert served.http.post("/admin/models/garbage/load", json=body).status_code == 200
    assert served.http.post("/admin/models/garbage/unload").status_code == 200

    record = served.swap("capitals", "garbage")

    assert record["phase"] == "failed"
    assert "golden prompts" in record["error"]
    assert "validation_failed" in record["error"]
    assert served.get("tasks/capitals")["model"] == "balanced"
    assert served.states() == {**before, "garbage": "unloaded"}
    wait_until(lambda: not served.processes("garbage"), 30, "no process left")
    assert served.ask("capitals", TASKS["capitals"].items[2])[1] == "balanced"


def test_probes_show_what_a_real_model_can_and_cannot_do(served):
    seen = {}

    def are_measured():
        """What did not fit into the time is asked again."""
        rows = served.get("models/balanced/probes")["probes"]
        seen.update({row["name"]: row["supported"] for row in rows})
        return None not in seen.values()

    wait_until(are_measured, 120, "every probe measured")
    able = ("chat", "completions", "stop", "stream_usage", "context")
    assert {name: seen[name] for name in able} == dict.fromkeys(able, True)
    assert (seen["tools"], seen["reasoning"]) == (False, False)
    record = served.swap("capitals", "quality")
    assert record["phase"] == "succeeded"
    assert set(record["facts"]["probes"]) == {"stop", "stream_usage", "chat", "completions"}
    back = served.http.post("/admin/tasks/capitals/rollback", json={"wait_s": READY_S})
    assert back.json()["phase"] == "rolled_back"


@pytest.mark.parametrize("kind", ["missing", "empty", "not gguf", "cut off"])
def test_weights_that_cannot_be_used_are_refused_by_name_and_leave_nothing(served, kind):
    path = served.folder / f"{kind.replace(' ', '-')}.gguf"
    if kind == "empty":
        path.touch()
    elif kind == "not gguf":
        path.write_bytes(b"<html>not found</html>" * 100)
    elif kind == "cut off":
        whole = default_cache_dir() / "gemma-3-270m-q4_k_m.gguf"
        with whole.open("rb") as source:
            path.write_bytes(source.read(20 * 2**20))

    answer = served.load("broken", source=str(path))

    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "load_failed"
    assert path.name in answer.json()["error"]["message"]
    assert served.states()["broken"] == "unloaded"
    wait_until(lambda: not served.processes("broken"), 30, "no process left")
    refused = served.http.post("/v1/completions", json={"model": "broken", "prompt": "hi"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_loaded")
