"""The ingress replica: router, link to the actors, and HTTP, put together in one process."""

from __future__ import annotations

import uuid
from typing import Any

import orjson

from hotswap_ray.actors.cluster.connection import ServeConnection
from hotswap_ray.actors.cluster.judge_watchdog import connect as connect_judge
from hotswap_ray.actors.cluster.names import CONTROLLER, LEARNING
from hotswap_ray.actors.cluster.proxy import ActorProxy
from hotswap_ray.actors.ingress.call import Call
from hotswap_ray.actors.ingress.link import ControlLink
from hotswap_ray.actors.ingress.loop_lag import LoopLag
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.config import Config
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.routing.conversation import names_of


class Ingress:
    """One of a fixed number of replicas behind the HTTP proxy.

    Args:
        config: The configuration.
        make_api: Builds the ASGI application from this object; ``app.py`` knows the web.
    """

    async def __init__(self, config: Config, make_api: Any) -> None:  # type: ignore[misc] # Serve awaits it
        import ray

        from hotswap_ray.actors.ingress.metrics import RequestMetrics

        namespace = config.cluster.namespace
        self.config = config
        self.controller = ActorProxy(CONTROLLER, namespace)
        self.learning = ActorProxy(LEARNING, namespace)
        tasks = config.tasks
        autoswap = {name: task.autoswap_with(config.autoswap) for name, task in tasks.items()}
        self.router = Router(
            config.server,
            ServeConnection,
            on_drained=lambda: self.link.drained(),
            tasks=tasks,
            autoswap=autoswap,
        )
        self.router.shadows.busy = LoopLag().busy
        judge = connect_judge(namespace, config.learning.check_timeout_s)
        metrics = RequestMetrics(self.router, judge, lambda: self.link.lost_outcomes)
        self.link = ControlLink(
            ray.get_runtime_context().get_actor_name() or uuid.uuid4().hex,
            self.router,
            self.controller,
            self.learning,
            config.learning,
            metrics.observe,
            judge.judge,
        )
        self.asgi = make_api(self)
        await self.link.start()

    async def feedback(
        self,
        request_id: str,
        score: float,
        key: str | None,
        comment: str | None,
        source: str | None,
    ) -> Any:
        """Take a score; the outcome it belongs to may still wait here for its batch."""
        await self.link.flush()
        return await self.learning.feedback(request_id, score, key, comment, source)

    async def execute(
        self,
        endpoint: Endpoint,
        body: dict[str, Any],
        task: str | None,
        prefer: str | None,
        session: str | None = None,
    ) -> dict[str, Any]:
        """Serve one request for the Python handle; same path as HTTP.

        Args:
            endpoint: Of the request.
            body: OpenAI request.
            task: Task id; the default task without one.
            prefer: Model that meets its criteria, if the task's own does not.
            session: Name of its conversation, as the header ``x-session-id`` of HTTP.

        Returns:
            The answer, the model, its generation, the task, the decision and the request id.
        """
        request_id = uuid.uuid4().hex
        model = body.pop("model", "auto")
        names = names_of(self.config.server.conversation_keys, {"x-session-id": session}.get, body)
        call = Call(request_id, endpoint, body, model, task, None, prefer, names)
        assignment, answer = await self.router.generate(call)
        return {
            "answer": orjson.loads(answer),
            "model": assignment.target.model,
            "generation": assignment.target.generation,
            "task": assignment.task,
            "decision": str(assignment.decision),
            "request_id": request_id,
        }
