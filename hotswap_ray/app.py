"""Composition root: the only place that wraps plain classes as Ray actors and deployments.

``serve deploy`` imports ``build_app``; ``hotswap serve`` calls ``start``; tests call
``build`` with their own parts.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import RequestRouterConfig

from hotswap_ray import config as configuration
from hotswap_ray.actors.cluster.connection import MODEL_DEPLOYMENT
from hotswap_ray.actors.cluster.fleet import INGRESS_APP, INGRESS_DEPLOYMENT, ServeFleet
from hotswap_ray.actors.cluster.names import CONTROLLER, JUDGE, LEARNING
from hotswap_ray.actors.cluster.proxy import ActorProxy
from hotswap_ray.actors.controller.controller import SwapController
from hotswap_ray.actors.controller.swaps.metrics import SwapMetrics
from hotswap_ray.actors.ingress.ingress import Ingress
from hotswap_ray.actors.judge.judge import Judge
from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.actors.replica.replica import ModelReplica
from hotswap_ray.config import Config
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import load_engine_class
from hotswap_ray.ports import free_port
from hotswap_ray.store import Store
from hotswap_ray.web.admin.api import AdminApi
from hotswap_ray.web.around_serve import CALLBACK as AROUND_SERVE
from hotswap_ray.web.asgi import Receive, Scope, Send
from hotswap_ray.web.openai_api import OpenAIApi

AFFINITY = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Ray's own, from 2.58 on: the session's hash says which replica, and who is next if it is full."""
HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_METRICS_PORT": 9101, "RAY_SERVE_HAPROXY_STATS_PORT": 8404}
log = logging.getLogger("hotswap.app")


def model_deployment(spec: ModelSpec, max_stream_s: float) -> Any:
    """The Serve deployment that hosts one model.

    Args:
        spec: The model.
        max_stream_s: Longest answer; Serve's own grace for a replica that ends.
    """
    options = load_engine_class(spec.engine).deployment_options(spec)
    scale: dict[str, Any] = {"num_replicas": spec.resources.replicas}
    if spec.resources.autoscale:
        scale = {"autoscaling_config": spec.resources.autoscale.model_dump()}
    if spec.replica_affinity:
        scale["request_router_config"] = RequestRouterConfig(request_router_class=AFFINITY)
    return serve.deployment(
        name=MODEL_DEPLOYMENT,
        # The replica itself bounds its work: a queue in Serve's router could hang, and a full
        # model must still answer pings.
        max_ongoing_requests=spec.max_ongoing_requests + spec.max_queued_requests + 100,
        graceful_shutdown_timeout_s=max_stream_s,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5,
        health_check_timeout_s=30,
        max_constructor_retry_count=1,
        **scale,
        **options,
    )(ModelReplica)


class _Entry:
    """ASGI application that hands each request to the replica's own object."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await serve.get_replica_context().servable_object.asgi(scope, receive, send)


def make_api(ingress: Ingress) -> OpenAIApi:
    """HTTP for one ingress replica."""
    server = ingress.config.server
    # A load may take long; its limits are in the model's spec.
    controller = ActorProxy(CONTROLLER, ingress.config.cluster.namespace, timeout_s=86_400)
    admin = AdminApi(server, controller, ingress.learning)
    return OpenAIApi(server, ingress.router, ingress.feedback, admin, behind_serve=True)


def create_actors(config: Config) -> Any:
    """Create the three detached actors, or find them; they outlive drivers and failures.

    Returns at once, with the controller, which has not started its work.
    """
    namespace = config.cluster.namespace
    options: dict[str, Any] = {
        "namespace": namespace,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "num_cpus": 0,
        "max_concurrency": 1000,
    }
    store = Store(config.store.url)
    learning = config.learning
    # Calls carry ids, so Ray may repeat them after a restart of the actor.
    ray.remote(LearningActor).options(**options, name=LEARNING, max_task_retries=-1).remote(
        store,
        tuple(config.tasks.values()),
        half_life=learning.half_life_requests,
        retention_s=learning.retention_s,
        one_key_decides=learning.one_key_decides,
        feedback_per_minute=learning.feedback_per_minute,
        prices={name: model.price for name, model in config.models.items()},
    )
    # One call at a time, in the main thread, so that a check that hangs can be interrupted. Ray
    # does not repeat a call: it could be the one that killed the process.
    judge_options = {**options, "max_concurrency": 1, "name": JUDGE}
    ray.remote(Judge).options(**judge_options).remote(learning.check_timeout_s)
    fleet = ServeFleet(partial(model_deployment, max_stream_s=config.server.request_timeout_s))
    controller = (
        ray.remote(SwapController)
        .options(**options, name=CONTROLLER)
        .remote(config, store, fleet, ActorProxy(LEARNING, namespace), on_swap_end=SwapMetrics())
    )
    store.close()
    return controller


def build(config: Config) -> Any:
    """The ingress application, with the actors behind it.

    Args:
        config: A checked configuration.

    Returns:
        A Serve application for ``serve.run`` at ``/``.
    """
    ray.get(create_actors(config).start.remote())
    ingress = serve.deployment(
        name=INGRESS_DEPLOYMENT,
        num_replicas=config.server.ingress_replicas,
        max_ongoing_requests=config.server.max_in_flight + 100,  # admin calls and long polls
        graceful_shutdown_timeout_s=config.server.request_timeout_s,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress(_Entry())(Ingress))
    return ingress.bind(config, make_api)


def build_app(args: dict[str, str]) -> Any:
    """Application builder for ``serve deploy`` and ``serve run``.

    Args:
        args: ``config``: path of the YAML file, readable on the node that builds.
    """
    return build(configuration.load(Path(args["config"])))


def _free_port(preferred: int) -> int:
    """``preferred``, or another port when it is taken, as by a second Ray on this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("0.0.0.0", preferred))
            return preferred
    return free_port()


def start(config: Config, *, quiet: bool = False) -> str | None:
    """Start Ray here if there is no cluster, then Serve, the actors and the ingress.

    Returns when the endpoint answers; models may still be loading (``/readyz``).

    Args:
        config: A checked configuration.
        quiet: Keep Ray's and Serve's own messages in their log files.

    Returns:
        Host and port of Ray's dashboard; ``None`` if it has none, or Ray ran already.
    """
    dashboard = None
    flags = {
        "RAY_SERVE_ENABLE_HA_PROXY": config.cluster.ha_proxy,
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": config.cluster.throughput_optimized,
    }
    if config.cluster.address is None:
        # Serve reads these when a process starts, so they must be there before Ray is.
        os.environ.update({name: "1" for name, on in flags.items() if on})
        os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "0")
        # By default a proxy that is not up within 5 s is killed, which fails on busy machines.
        os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
        # Ray starts its workers at niceness 15. Ours carry the requests, and a model that serves
        # must not have a lower priority than one that loads, which sets its own niceness.
        os.environ.setdefault("RAY_worker_niceness", "0")
        os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", AROUND_SERVE)
        for name, port in HAPROXY_PORTS.items():
            os.environ.setdefault(name, str(_free_port(port)))
    if not ray.is_initialized():
        context = ray.init(
            address=config.cluster.address or "local",
            namespace=config.cluster.namespace,
            log_to_driver=not quiet,
            logging_level=logging.ERROR if quiet else logging.INFO,
        )
        dashboard = context.dashboard_url or None
    if quiet:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Their processes come up meanwhile: HAProxy answers 404 from now on until the ingress is there.
    create_actors(config)
    serve.start(http_options={"host": config.server.host, "port": config.server.port})
    target = serve.RunTarget(target=build(config), name=INGRESS_APP, route_prefix="/")
    serve.run_many([target])
    return dashboard
