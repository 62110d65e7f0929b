"""The running product, for the clients: `hotswap serve` in a process with the project's own Python.

These tests run in an environment that has the clients and nothing of the product;
`make test-clients` makes it. `HOTSWAP_PYTHON` names another interpreter that has the product.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).parent / "node"
KEY = "test-key"
START_S, STOP_S = 480, 60
collect_ignore = ["scripted.py", "gemma_tokenizer.py"]  # programs for the other interpreter

# Beside the quickstart's Gemma models: one that is simulated, and a server with a known script.
MORE_MODELS = {
    "sim": {
        "engine": "simulated",
        "capabilities": ["chat", "completions", "tools", "json"],
        "resources": {"num_cpus": 0},
    },
    "up": {
        "engine": "openai",
        "source": "far",
        "capabilities": ["chat", "completions", "tools", "json"],
        "resources": {"num_cpus": 0},
    },
}


@dataclass(frozen=True)
class Product:
    """A running endpoint, as clients are told of it.

    Attributes:
        root: Without `/v1`.
        python: The interpreter that has it.
        key: The bearer token that it takes.
    """

    root: str
    python: str
    key: str = KEY

    @property
    def url(self):
        """What clients call the base URL."""
        return f"{self.root}/v1"


@pytest.fixture(scope="session")
def product(tmp_path_factory):
    """`hotswap serve` with the quickstart's models and two more; one for all tests."""
    folder = tmp_path_factory.mktemp("product")
    home = Path.home()
    environment = {
        **os.environ,
        "HOME": str(folder),
        "HOTSWAP_CACHE": os.environ.get("HOTSWAP_CACHE") or str(home / ".cache" / "hotswap_ray"),
        "HOTSWAP_STORE_URL": f"sqlite:///{folder}/clients.sqlite",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("RAY_AUTH_MODE", None)  # as a user has it: the product sees to tokens
    environment.pop("RAY_ADDRESS", None)
    python = os.environ.get("HOTSWAP_PYTHON") or str(ROOT / ".venv" / "bin" / "python")
    upstream = subprocess.Popen(
        [python, Path(__file__).with_name("scripted.py")],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    port = _free_port()
    log = folder / "serve.log"
    with log.open("w") as out:
        config = folder / "clients.json"  # YAML contains JSON
        config.write_text(json.dumps(_settings(port, upstream.stdout.readline().strip())))
        served = subprocess.Popen(
            [python, "-c", "from hotswap_ray.cli import main; main()", "serve", config],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/readyz", served, log)
        yield Product(f"http://127.0.0.1:{port}", python)
    finally:
        _end(served)
        _end(upstream)


def _settings(port, upstream):
    import yaml

    settings = yaml.safe_load((ROOT / "deployments" / "quickstart.yaml").read_text())
    settings["models"] |= MORE_MODELS
    settings["models"]["up"]["options"] = {"base_url": upstream}
    settings["tasks"] |= {"simulation": {"model": "sim"}, "agent": {"model": "up"}}
    settings["server"] = {"port": port, "api_keys": [KEY]}
    return settings


def _free_port():
    """A port below those that the system gives away by itself meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError("no free port")


def _wait_until_ready(url, served, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and served.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass  # nobody listens yet
        time.sleep(0.5)
    raise AssertionError(f"the product did not get ready:\n{log.read_text()[-4000:]}")


def _end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def node(product):
    """Run a script of `node/` against the product; what it printed, as JSON."""
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    if not (NODE / "node_modules").is_dir():
        pytest.skip("the Node clients are not installed; `make test-clients` does it")

    def run(script):
        done = subprocess.run(
            ["node", script],
            cwd=NODE,
            env={**os.environ, "BASE_URL": product.url, "API_KEY": product.key},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout)

    return run
