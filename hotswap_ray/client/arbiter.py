"""``Arbiter``: hotswap_ray from Python, in a script, a notebook, a Ray job, task or actor.

::

    from hotswap_ray import Arbiter

    arbiter = Arbiter.connect()
    result = arbiter.execute_task("The capital of Peru is", {"task_type": "capitals"})
    print(result.model, result.text)
    arbiter.force_swap("capitals", "quality")
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from hotswap_ray.client.ab_tests import ABTestClient
from hotswap_ray.client.analytics import Analytics
from hotswap_ray.client.link import connect
from hotswap_ray.client.operations import Operations
from hotswap_ray.client.schedules import Schedules
from hotswap_ray.core.errors import InvalidRequest, NotFound
from hotswap_ray.core.fit.criteria import Pick, parse_criteria, pick
from hotswap_ray.core.outcome import Criteria, Endpoint
from hotswap_ray.core.routing.table import unknown
from hotswap_ray.core.spec.task import ModelSpec

ELSEWHERE = {
    "fallback": "the chosen model did not answer",
    "escalated": "the task's model cannot take this request, for its length or what it asks",
}


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One answer, and who gave it.

    Attributes:
        model: Model that answered.
        generation: Its load, 1 and up.
        task: Task it was served under.
        text: The answer's text.
        answer: The whole answer, as OpenAI's API has it.
        performance: ``latency_ms`` as this process saw it, ``tokens_in``, ``tokens_out``.
        swapped: Whether another model than the task's active one answered.
        swap_details: ``reason`` why, empty when it did not.
        request_id: For ``feedback``.
        decision: One of ``hotswap_ray.core.outcome.RoutingDecision``.
    """

    model: str
    generation: int
    task: str
    text: str
    answer: dict[str, Any]
    performance: dict[str, float]
    swapped: bool
    swap_details: dict[str, str]
    request_id: str
    decision: str


class Arbiter(Analytics, Operations, Schedules, ABTestClient):
    """A handle on a running hotswap_ray. Blocking; safe to share between threads.

    Every method raises the errors of ``hotswap_ray.core.errors``, wherever they occurred.
    Use ``Arbiter.connect()`` to make one; it can be a context manager.
    """

    @classmethod
    def connect(cls, address: str | None = None, namespace: str = "hotswap") -> Self:
        """Find the hotswap_ray that runs.

        Args:
            address: Ray address. Without one: the cluster this process belongs to,
                ``RAY_ADDRESS``, where ``hotswap serve`` runs on this machine, or any Ray
                cluster on this machine, in that order.
            namespace: ``cluster.namespace`` of its configuration.

        Raises:
            ClusterUnavailable: No cluster, or no hotswap_ray on it.
        """
        return cls(connect(address, namespace))

    def close(self) -> None:
        """Disconnect. What runs goes on."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- requests -----------------------------------------------------------------------

    def execute_task(
        self,
        request: str | Mapping[str, Any],
        criteria: Criteria | Mapping[str, Any] | None = None,
        timeout_s: float = 600,
        session_id: str | None = None,
    ) -> TaskResult:
        """Have one request answered, on the path that HTTP requests take.

        Without limits in the criteria, the task's active model answers and no actor is
        asked. With limits, they are completed by what is known of the task; if the active
        model does not meet them, this one request goes to the best loaded model that does.
        The route does not change: ``force_swap`` does that.

        Args:
            request: A prompt, or the body of an OpenAI request: with ``messages`` a chat,
                with ``prompt`` a completion.
            criteria: What the model must meet; ``task_type`` says which task it is.
            timeout_s: Longest wait.
            session_id: Name of the conversation, which keeps its model; the header
                ``x-session-id`` over HTTP.

        Raises:
            InvalidRequest: The request or the criteria are malformed.
            NotFound: Unknown task or model.
            Incompatible: No loaded model meets the criteria.
            Overloaded: Too many requests at work.
            EngineError: The model, and its fallback, failed.
        """
        parsed = parse_criteria(criteria)
        body = {"prompt": request} if isinstance(request, str) else dict(request)
        endpoint = _endpoint(body)
        metadata = body.pop("metadata", None) or {}
        if not isinstance(metadata, Mapping):
            raise InvalidRequest("metadata must be an object")
        task = parsed.task_type or metadata.get("task_type") or None
        choice = self._pick(replace(parsed, task_type=task or ""), body)
        started = time.perf_counter()
        prefer = choice.model if choice.reason else None
        response = self._link.ingress(
            "execute", endpoint, body, task, prefer, session_id, timeout_s=timeout_s
        )
        latency_ms = (time.perf_counter() - started) * 1e3
        usage = response["answer"].get("usage") or {}
        reason = choice.reason
        if response["decision"] in ELSEWHERE:
            reason = ELSEWHERE[response["decision"]]
        return TaskResult(
            text=_text(response["answer"]),
            performance={
                "latency_ms": latency_ms,
                "tokens_in": usage.get("prompt_tokens", 0),
                "tokens_out": usage.get("completion_tokens", 0),
            },
            swapped=bool(reason),
            swap_details={"reason": reason} if reason else {},
            **response,
        )

    def _pick(self, criteria: Criteria, body: Mapping[str, Any]) -> Pick:
        if criteria == Criteria(criteria.task_type) or body.get("model", "auto") != "auto":
            return Pick("", "")  # nothing to choose
        status = self.status()
        task = criteria.task_type or status["default_task"]
        if task not in status["tasks"]:
            raise NotFound(unknown("task", task, status["tasks"]))
        limits = self._link.learning("enhance_criteria", replace(criteria, task_type=task))
        # A task's own quality target is a goal for swaps, not a limit of one request.
        limits = replace(limits, quality_threshold=criteria.quality_threshold)
        ready = {row["model"]: row for row in status["models"] if row["state"] == "ready"}
        loaded = {name: ModelSpec.model_validate(row["spec"]) for name, row in ready.items()}
        rows = self.task_performance_summary(task)["models"]
        evidence = {row["model"]: row for row in rows}
        for name, row in ready.items():
            evidence[name] = {**evidence.get(name, {}), "memory_bytes": row["memory_bytes"]}
        return pick(limits, status["tasks"][task]["model"], loaded, evidence)

    def feedback(
        self, request_id: str, score: float, key: str | None = None, comment: str | None = None
    ) -> dict[str, Any]:
        """Say how good an answer was.

        Args:
            request_id: ``TaskResult.request_id`` or the ``x-request-id`` of a response.
            score: In [0, 1].
            key: The same key again changes nothing; without one, the same score again.
            comment: Free text.

        Returns:
            ``request_id``, ``task`` and ``model``; with ``pending`` true, and no task and model,
            where the answer is not recorded yet: the score counts when it is, within a day.

        Raises:
            InvalidRequest: The score is out of range.
            NotFound: No such request is known, and it is no id that may still come.
            Conflict: It has another score already.
        """
        answer: dict[str, Any] = self._link.learning("feedback", request_id, score, key, comment)
        return answer


def _endpoint(body: Mapping[str, Any]) -> Endpoint:
    if body.get("stream"):
        raise InvalidRequest("execute_task returns whole answers; leave out stream")
    messages = body.get("messages")
    if isinstance(messages, list) and messages:
        return "chat/completions"
    if isinstance(body.get("prompt"), str | list):
        return "completions"
    raise InvalidRequest("the request needs messages, a list, or prompt, a text")


def _text(answer: Mapping[str, Any]) -> str:
    for choice in answer.get("choices") or ():
        message = choice.get("message") or {}
        return str(choice.get("text") or message.get("content") or "")
    return ""
