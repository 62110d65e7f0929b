"""``hotswap serve`` and ``hotswap validate``: from a YAML file to a running endpoint."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from hotswap_ray.cli import output
from hotswap_ray.cli.output import AsJson
from hotswap_ray.core.errors import ClusterUnavailable, HotswapError

if TYPE_CHECKING:
    from hotswap_ray.client.arbiter import Arbiter
    from hotswap_ray.config import Config

POLL_S = 0.5
ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The YAML file.", show_default=False)
]


def validate(config: ConfigFile, as_json: AsJson = False) -> None:
    """Check a configuration file; every problem with path and line. Starts nothing."""
    from hotswap_ray.config import load

    settings = load(config)
    if as_json:
        output.emit_json(
            {"file": str(config), "models": [*settings.models], "tasks": [*settings.tasks]}
        )
    else:
        output.emit(f"{config}: ok, {len(settings.models)} models, {len(settings.tasks)} tasks")


def serve(config: ConfigFile, as_json: AsJson = False) -> None:
    """Start what the file describes and stay up until Ctrl-C or SIGTERM.

    Starts Ray on this machine, unless the file names a cluster: there everything goes on
    when this command ends.
    """
    from hotswap_ray.config import load

    settings = load(config)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _serve(settings, as_json)
    except KeyboardInterrupt:
        _stop(settings, as_json)


def _serve(settings: Config, as_json: bool) -> NoReturn:
    from hotswap_ray.client.link import remember, use_token

    use_token()  # before Ray is imported
    from hotswap_ray import app
    from hotswap_ray.client.arbiter import Arbiter

    url = f"http://{_host(settings.server.host)}:{settings.server.port}"
    _say(as_json, "starting", f"starting Ray and the endpoint {url} ...", url=url)
    try:
        dashboard = app.start(settings, quiet=True)
    except HotswapError:
        raise
    except Exception as error:  # Ray raises plain Exception when a node is late
        reason = str(error).strip().rpartition("\n")[2][:300]  # a remote traceback ends so
        raise ClusterUnavailable(f"Ray or Serve did not start: {reason}") from error
    signal.signal(signal.SIGTERM, _interrupt)  # again, because Ray has replaced our handler
    with Arbiter.connect(namespace=settings.cluster.namespace) as arbiter:
        ray_address = _ray_address()
        remember(ray_address, settings.cluster.namespace)
        text = f"listening; models are loading; Ray is at {ray_address}"
        _say(as_json, "listening", text, ray_address=ray_address)
        _say_where_to_look(as_json, dashboard)
        _follow_loading(arbiter, as_json)
        _say(as_json, "ready", _how_to_call(settings, url), url=url)
        while True:
            time.sleep(3600)  # until a signal


def _say_where_to_look(as_json: bool, dashboard: str | None) -> None:
    """Ray chooses the ports of its metrics and of its dashboard; nobody else tells them."""
    import ray

    metrics = [
        f"http://{_host(node['NodeManagerAddress'])}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()
        if node["Alive"] and node.get("MetricsExportPort")
    ]
    text = f"metrics (Prometheus): {', '.join(metrics) or 'none'}"
    if dashboard:
        dashboard = dashboard if "://" in dashboard else f"http://{dashboard}"
        text += f"; Ray's dashboard: {dashboard}, which asks for the token of `ray get-auth-token`"
    _say(as_json, "observability", text, metrics=metrics, dashboard=dashboard)


def _follow_loading(arbiter: Arbiter, as_json: bool) -> None:
    """Report each change of a model's state until every task has a loaded model."""
    states: dict[str, str] = {}
    last_error = ""
    while True:
        status = arbiter.status()
        for row in status["models"]:
            if row["state"] != "unloaded" and states.get(row["model"]) != row["state"]:
                states[row["model"]] = row["state"]
                memory = output.mib(row["memory_bytes"])
                extra = f" in {row['load_s']:.1f} s, {memory}" if row["state"] == "ready" else ""
                text = f"model {row['model']}: {row['state']}{extra}"
                _say(as_json, "model", text, model=row["model"], state=row["state"])
        if status["last_error"] not in ("", last_error):
            last_error = status["last_error"]
            _say(as_json, "error", f"error: {last_error}", error=last_error)
        if all(route["generation"] is not None for route in status["tasks"].values()):
            return
        time.sleep(POLL_S)


def _how_to_call(settings: Config, url: str) -> str:
    key = ' -H "Authorization: Bearer $KEY"' if settings.server.api_keys else ""
    body = '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'
    return (
        "ready; call it with\n"
        f"  curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'\n"
        "and in another terminal: hotswap status, hotswap swap TASK MODEL, hotswap watch\n"
        "Ctrl-C ends it."
    )


def _stop(settings: Config, as_json: bool) -> None:
    import ray

    if not ray.is_initialized():
        return
    if settings.cluster.address is not None:
        text = "this command ends; the endpoint goes on on the cluster (`serve shutdown` ends it)"
        _say(as_json, "left", text)
        return
    _say(as_json, "stopping", "stopping ...")
    from ray import serve

    from hotswap_ray.client.link import forget

    forget(settings.cluster.namespace)
    serve.shutdown()
    ray.shutdown()
    _say(as_json, "stopped", "stopped")


def _say(as_json: bool, kind: str, text: str, **facts: Any) -> None:
    if as_json:
        output.emit_json_line({"event": kind, **facts})
    else:
        output.emit(text)
    sys.stdout.flush()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _host(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _ray_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)
