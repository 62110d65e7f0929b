"""Announces the phases of swaps to other servers; some of them may stop a swap.

A swap waits for the answer to ``before:PHASE``, at most ``timeout_s``, so each is delivered at
least once: after a crash again, with the same id. Going back never waits, as requests are at
stake. ``after:PHASE`` is sent in the background, once saved, and tried three times; a crash in
that moment loses it. What could not be delivered is an event, ``webhook_failed``.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
import orjson
from tenacity import (
    AsyncRetrying,
    retry_if_result,
    stop_after_attempt,
    wait_chain,
    wait_fixed,
)

from hotswap_ray.actors.cluster.background import Tasks
from hotswap_ray.core.errors import StoreError, WebhookFailed
from hotswap_ray.core.spec.webhook import WebhookSpec, When
from hotswap_ray.core.swap.phases import Phase, Swap
from hotswap_ray.store import Store

RETRY_S = (1.0, 5.0)
MOST_WAITING = 500
URGENT = frozenset({Phase.RELEASING, Phase.ROLLING_BACK})
log = logging.getLogger("hotswap.webhooks")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message; the same for every receiver, and the same when it is sent again."""

    id: str
    event: str
    swap: Swap
    body: bytes

    @classmethod
    def of(cls, when: When, phase: Phase, swap: Swap, at_s: float) -> Delivery:
        """The message about a phase of a swap."""
        event = f"{when}:{phase}"
        name = f"{swap.swap_id}:{event}"
        doc = {"id": name, "event": event, "when": when, "phase": phase, "at_s": at_s}
        option = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
        body = orjson.dumps({**doc, "swap": swap.to_doc()}, default=str, option=option)
        return cls(name, event, swap, body)

    def headers(self, spec: WebhookSpec) -> dict[str, str]:
        """Headers by which the receiver detects repetitions and forgeries."""
        headers = {
            "content-type": "application/json",
            "x-hotswap-event": self.event,
            "x-hotswap-delivery": self.id,
        }
        if spec.secret is not None:
            headers["x-hotswap-signature"] = sign(spec.secret.get_secret_value(), self.body)
        return headers


class Webhooks:
    """Deliveries of one controller.

    Args:
        specs: Receivers, and the phases they want.
        store: Where failures are recorded.
        clock: Unix seconds.
    """

    def __init__(
        self, specs: Sequence[WebhookSpec], store: Store, clock: Callable[[], float]
    ) -> None:
        self._specs = specs
        self._store = store
        self._clock = clock
        self._passed: set[tuple[str, Phase]] = set()
        self._tasks = Tasks(log)
        self._client: httpx.AsyncClient | None = None

    async def before(self, swap: Swap) -> None:
        """Announce that a phase is about to be acted upon; once, however often it is tried again.

        Raises:
            WebhookFailed: A webhook that may stop the swap did not consent.
        """
        phase, key = swap.phase, (swap.swap_id, swap.phase)
        specs = [spec for spec in self._specs if spec.wants("before", phase)]
        # Asked once: a switch that is tried again may have happened already.
        if not specs or key in self._passed:
            return
        delivery = Delivery.of("before", phase, swap, self._clock())
        if phase in URGENT:
            self._send_later(specs, delivery)
        else:
            failures = await asyncio.gather(*(self._post(spec, delivery) for spec in specs))
            failed = [(spec, text) for spec, text in zip(specs, failures, strict=True) if text]
            for spec, text in failed:
                self._tasks.spawn(self._record(spec, delivery, text), delivery.id)
            for spec, text in failed:
                if spec.may_stop(phase):
                    raise WebhookFailed(f"webhook {spec.name} did not consent to {phase}: {text}")
        self._passed.add(key)

    def after(self, left: Phase, swap: Swap) -> None:
        """Announce that a phase was left, and the end that it led to; waits for nothing.

        Args:
            left: The phase that was acted upon.
            swap: The record in its next phase, saved.
        """
        if swap.phase is left:
            return
        self._passed.discard((swap.swap_id, left))
        for phase in (left,) if swap.is_open else (left, swap.phase):
            specs = [spec for spec in self._specs if spec.wants("after", phase)]
            if specs:
                self._send_later(specs, Delivery.of("after", phase, swap, self._clock()))

    def _send_later(self, specs: Sequence[WebhookSpec], delivery: Delivery) -> None:
        for spec in specs:
            if len(self._tasks) < MOST_WAITING:
                self._tasks.spawn(self._send(spec, delivery), delivery.id)
            else:
                self._tasks.spawn(
                    self._record(spec, delivery, "too many deliveries wait"), delivery.id
                )

    async def _send(self, spec: WebhookSpec, delivery: Delivery) -> None:
        posting = AsyncRetrying(
            retry=retry_if_result(bool),
            wait=wait_chain(*map(wait_fixed, RETRY_S)),
            stop=stop_after_attempt(len(RETRY_S) + 1),
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        failure: str = await posting(self._post, spec, delivery)
        if failure:
            await self._record(spec, delivery, failure)

    async def _post(self, spec: WebhookSpec, delivery: Delivery) -> str:
        """What went wrong, without the URL, which may hold a token; empty if nothing did."""
        if self._client is None:
            logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log whole URLs
            # A kept connection may have been closed by the other side, which looks like a refusal.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._client = httpx.AsyncClient(timeout=None, limits=limits, follow_redirects=False)
        try:
            # The answer's body is not read: it is not needed, and may be endless.
            async with (
                asyncio.timeout(spec.timeout_s),
                self._client.stream(
                    "POST", spec.url, content=delivery.body, headers=delivery.headers(spec)
                ) as answer,
            ):
                return "" if answer.is_success else f"HTTP {answer.status_code}"
        except TimeoutError:
            return f"no answer within {spec.timeout_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return type(error).__name__

    async def _record(self, spec: WebhookSpec, delivery: Delivery, failure: str) -> None:
        log.warning("webhook %s: %s: %s", spec.name, delivery.id, failure)
        event = {"swap_id": delivery.swap.swap_id, "task": delivery.swap.task}
        event |= {"event": delivery.event, "webhook": spec.name, "error": failure}
        try:
            await asyncio.to_thread(self._store.add_event, "webhook_failed", event, self._clock())
        except StoreError as error:
            log.error("event webhook_failed was not saved: %s", error)


def sign(secret: str, body: bytes) -> str:
    """The signature of a body, as it stands in ``x-hotswap-signature``.

    Compare with ``hmac.compare_digest``, over the bytes as they came.

    Example:
        >>> sign("key", b"{}")[:20]
        'sha256=a777724d943eb'
    """
    return "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()
