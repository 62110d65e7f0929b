"""The command line for real: `hotswap serve` in one process, other commands in others."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path

import httpx
import pytest

from hotswap_ray.ports import free_port, free_ports
from tests.ray.conftest import wait_until

pytestmark = pytest.mark.ray

BIN = Path(sys.executable).parent
CONFIG = """
models:
  a: {{engine: simulated, resident: true, resources: {{num_cpus: 0}}, options: {{seed: 1}}}}
  b: {{engine: simulated, resources: {{num_cpus: 0}}, options: {{seed: 2}}}}
tasks:
  chat: {{model: a}}
  sums: {{model: a}}
server: {{port: {port}, ingress_replicas: 1}}
store: {{url: "sqlite:///{folder}/store.sqlite"}}
swap: {{bake_s: 0}}
learning: {{flush_s: 0.1}}
"""
VISITOR = """
models:
  visitor: {engine: simulated, resources: {num_cpus: 0}, options: {can_sleep: true}}
"""
JOB = """
import ray
from hotswap_ray import Arbiter

arbiter = Arbiter.connect()

@ray.remote(num_cpus=0)
def ask():
    return Arbiter.connect().execute_task("x", {"task_type": "sums"}).model

swap = arbiter.force_swap("sums", "b", until="end")
result = arbiter.execute_task("x", {"task_type": "sums"})
print("JOB", swap["phase"], result.model, ray.get(ask.remote()))
"""


class Host:
    """A home of its own, with `hotswap` as a user has it: Ray's tokens on, nothing set."""

    def __init__(self, folder, port):
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "HOTSWAP_"))}
        self.env |= {"HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
        self.env["RAY_raylet_start_wait_time_s"] = "300"
        self.env["PATH"] = f"{BIN}{os.pathsep}{self.env['PATH']}"

    def run(self, *command, timeout=120):
        return subprocess.run(
            command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=timeout
        )

    def hotswap(self, *arguments):
        """A command that must work; its standard output."""
        done = self.run("hotswap", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.hotswap(*arguments, "--json"))

    def start(self, *command):
        return subprocess.Popen(
            command,
            env=self.env,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


class Lines:
    """The output of a process, read so that it never blocks."""

    def __init__(self, process):
        self.process = process
        self.seen = deque()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        self.seen.extend(line for line in iter(self.process.stdout.readline, ""))

    def wait_for(self, text):
        def found():
            assert self.process.poll() is None or text in self.text, self.text
            return text in self.text

        wait_until(found, 300, f"{text!r} in the output")

    @property
    def text(self):
        return "".join(list(self.seen))


def end(process, number=signal.SIGTERM):
    if process.poll() is None:
        process.send_signal(number)
    return process.wait(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    port = free_port()
    host = Host(tmp_path_factory.mktemp("home"), port)
    (host.folder / "hotswap.yaml").write_text(CONFIG.format(port=port, folder=host.folder))
    (host.folder / "visitor.yaml").write_text(VISITOR)
    process = host.start("hotswap", "serve", "hotswap.yaml")
    lines = Lines(process)
    try:
        lines.wait_for("Ctrl-C ends it.")
        host.said = lines.text
        yield host
    finally:
        code = end(process)
    assert code == 0, lines.text
    assert "stopped" in lines.text
    assert not (host.folder / ".local/state/hotswap_ray/hotswap.ray-address").exists()


def test_serve_says_what_it_does_and_the_line_it_prints_works(served):
    assert "model a: ready" in served.said
    line = next(line for line in served.said.splitlines() if line.startswith("  curl "))
    if shutil.which("curl"):
        done = served.run("sh", "-c", f"{line} --silent")
        assert json.loads(done.stdout)["model"] == "a"
    else:
        assert f"{served.url}/v1/chat/completions" in line


def test_each_request_has_an_id_of_its_own_that_clients_read_as_x_request_id(served):
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"x-request-id": "mine"}
    answers = [
        httpx.post(f"{served.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        for _ in range(2)
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len({*ids, "mine"}) == 3
    assert ids == [answer.headers["x-hotswap-request-id"] for answer in answers]
    assert [answer.headers["x-hotswap-label"] for answer in answers] == ["mine", "mine"]


def test_it_says_where_the_metrics_are(served):
    (address,) = re.findall(r"metrics \(Prometheus\): (http://\S+/metrics)", served.said)
    assert "ray_" in httpx.get(address, timeout=60).text


def test_the_cluster_it_started_asks_for_a_token_and_the_commands_have_it(served):
    assert (served.folder / ".ray" / "auth_token").is_file()
    status = served.json("status")
    assert status["tasks"]["chat"]["model"] == "a"
    table = served.hotswap("status")
    assert "chat" in table
    assert "ingress: 1 replicas" in table


def test_models_are_loaded_from_a_file_put_to_sleep_woken_and_unloaded(served):
    assert served.json("models", "load", "visitor.yaml")["state"] == "ready"
    assert served.hotswap("models", "sleep", "visitor").startswith("visitor: asleep")
    assert served.json("models", "wake", "visitor")["state"] == "ready"
    assert {row["model"] for row in served.json("models", "list")} == {"a", "b", "visitor"}
    assert served.hotswap("models", "unload", "visitor") == "visitor: unloaded\n"


def test_a_task_is_swapped_and_rolled_back(served):
    told = served.hotswap("swap", "chat", "b", "--until", "end", "--swap-id", "s1", "--warn")
    assert told.startswith("s1: chat a -> b succeeded after ")
    assert served.json("swap", "chat", "b", "--swap-id", "s1")["phase"] == "succeeded"
    assert served.json("rollback", "chat")["phase"] == "rolled_back"
    history = served.json("swaps", "--task", "chat")
    assert [record["phase"] for record in history] == ["rolled_back", "succeeded"]
    assert "loading" in served.hotswap("swaps", "s1")
    assert "s1" in served.hotswap("swaps")


def test_an_open_swap_is_rolled_back_promoted_and_aborted(served):
    for action, ended in (("rollback", "rolled_back"), ("promote", "succeeded")):
        swap_id = served.json("swap", "sums", "b", "--bake-s", "600")["swap_id"]
        wait_until(lambda swap_id=swap_id: served.json("swaps", swap_id)["phase"] == "baking")
        assert served.json("rollout", action, swap_id)["phase"] == ended
    served.hotswap("rollback", "sums")
    refused = served.run("hotswap", "rollout", "abort", swap_id)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("hotswap: illegal_transition: ")


def test_learnings_are_shown_exported_and_imported(served):
    answer = httpx.post(
        f"{served.url}/v1/completions", json={"model": "auto:chat", "prompt": "x"}, timeout=60
    )
    request_id = answer.headers["x-request-id"]
    body = {"request_id": request_id, "score": 1}
    assert httpx.post(f"{served.url}/v1/feedback", json=body, timeout=60).status_code == 200
    assert "chat" in {row["task"] for row in served.json("learnings", "show")}
    assert "quality_target" in served.hotswap("learnings", "show", "chat")
    exported = served.json("learnings", "export", "out.jsonl")
    assert len((served.folder / "out.jsonl").read_text().splitlines()) == exported["lines"] > 0
    assert served.hotswap("learnings", "import", "out.jsonl").startswith("taken in: ")


def test_watch_shows_tasks_and_models_and_ends(served):
    assert "generation" in served.hotswap("watch", "--count", "2", "--interval-s", "0.1")
    looks = served.hotswap("watch", "--count", "1", "--json")
    assert set(json.loads(looks)) == {"status", "learnings"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["swap", "none", "b"], "hotswap: not_found: unknown task 'none'; known: chat, sums\n"),
        (["swap", "chat", "zzz"], "hotswap: not_found: unknown model 'zzz'"),
        (["swap", "chat", "a"], "hotswap: conflict: model 'a' serves task 'chat' already\n"),
        (["models", "unload", "a"], "hotswap: conflict: model 'a' serves "),
        (["swaps", "none"], "hotswap: not_found: unknown swap 'none'"),
        (["learnings", "import", "none"], "hotswap: invalid_request: "),
        (["status", "--namespace", "x"], "hotswap: cluster_unavailable: "),
    ],
)
def test_a_refusal_is_one_line_on_stderr_and_exit_code_1(served, arguments, text):
    done = served.run("hotswap", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(text)
    assert len(done.stderr.splitlines()) == 1


def test_without_a_cluster_the_command_says_how_to_start_one(tmp_path):
    host = Host(tmp_path, 0)
    done = host.run("hotswap", "status", "--address", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert done.stderr.startswith("hotswap: cluster_unavailable: no Ray cluster at '127.0.0.1:")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def cluster(tmp_path):
    """`ray start --head` with a dashboard, and `hotswap serve` on it."""
    ports = free_ports(7)
    host = Host(tmp_path, ports[0])
    host.dashboard = f"http://127.0.0.1:{ports[2]}"
    host.env["RAY_ADDRESS"] = f"127.0.0.1:{ports[1]}"
    text = CONFIG.format(port=ports[0], folder=tmp_path)
    (tmp_path / "hotswap.yaml").write_text(f"{text}cluster: {{address: '127.0.0.1:{ports[1]}'}}\n")
    (tmp_path / "job.py").write_text(JOB)
    host.run("ray", "get-auth-token", "--generate")
    started = []
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as short:
        head = ["ray", "start", "--head", "--block", f"--port={ports[1]}", "--num-cpus=8"]
        head += ["--include-dashboard=true", f"--temp-dir={short}"]
        head += [f"--dashboard-port={ports[2]}", f"--dashboard-agent-listen-port={ports[3]}"]
        head += [f"--dashboard-agent-grpc-port={ports[4]}", f"--metrics-export-port={ports[5]}"]
        head += [f"--ray-client-server-port={ports[6]}"]
        try:
            for command, text in (
                (head, "--block"),
                (["hotswap", "serve", "hotswap.yaml"], "Ctrl-C"),
            ):
                started.append(host.start(*command))
                Lines(started[-1]).wait_for(text)
            yield host
        finally:
            for process in reversed(started):
                end(process)


def test_a_submitted_ray_job_swaps_and_asks(cluster):
    done = cluster.run(  # Ray's own command sends its token only when it is told to
        *("env", "RAY_AUTH_MODE=token", "ray", "job", "submit", "--address", cluster.dashboard),
        "--",
        *(sys.executable, str(cluster.folder / "job.py")),
        timeout=240,
    )
    assert "JOB succeeded b b" in done.stdout, done.stdout + done.stderr
    assert cluster.json("status")["tasks"]["sums"]["model"] == "b"
