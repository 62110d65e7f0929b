"""The way to a server: requests, time limits, tries to connect, and failures as our errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from hotswap_ray.core.errors import (
    EngineTimeout,
    EngineUnavailable,
    HotswapError,
    InvalidRequest,
)
from hotswap_ray.engines.openai.options import OpenAIOptions
from hotswap_ray.engines.openai.refusals import refusal, without
from hotswap_ray.engines.openai.transport import Transport, environment_proxy
from hotswap_ray.engines.trace import TRACE

MOST_ERROR_BYTES = 65_536
"""Of an answer that is an error."""


@dataclass(frozen=True)
class Fetched:
    """A small answer: its status, its bytes, and the error that it is, if it is one."""

    status: int
    body: bytes
    refusal: HotswapError | None


class Connection:
    """Requests to one server.

    Args:
        where: Begins the message of each error; the model's id.
        options: Of the engine.
        clock: Unix time in seconds, for a server that says at which time to try again.
    """

    def __init__(
        self, where: str, options: OpenAIOptions, clock: Callable[[], float] = time.time
    ) -> None:
        self._where = where
        self._options = options
        self._clock = clock
        proxy = options.proxy.get_secret_value() if options.proxy else None
        if proxy is None and options.trust_env:
            proxy = environment_proxy(options.url)
        self._client = httpx.AsyncClient(
            base_url=options.base_url.rstrip("/") + "/",
            headers=options.sent_headers,
            transport=Transport(
                "https" in (options.url.scheme, httpx.URL(proxy or "").scheme), proxy
            ),
            follow_redirects=False,  # they would take the key elsewhere
            trust_env=False,
        )

    @property
    def root(self) -> str:
        """The server without the path ``/v1``."""
        return str(self._options.url.copy_with(path="/", query=None)).rstrip("/")

    async def close(self) -> None:
        """Close the connections; the server goes on."""
        await self._client.aclose()

    async def fetch(self, url: str, method: str = "GET") -> Fetched:
        """A small answer, whatever its status.

        Raises:
            EngineTimeout: None came in time.
            EngineUnavailable: The server cannot be reached.
        """
        async with self._answered(method, url) as response:
            if not response.is_success:
                error = await self._refused(response)
                return Fetched(response.status_code, b"", error)
            return Fetched(response.status_code, await response.aread(), None)

    @asynccontextmanager
    async def post(
        self, url: str, body: dict[str, Any], silence_s: float | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Send a request; the answer's body is not read yet.

        Args:
            url: Relative to ``base_url``.
            body: Sent as JSON.
            silence_s: Longest time without a byte; ``first_byte_timeout_s`` if unset.

        Raises:
            HotswapError: The server refuses, cannot be reached, or breaks off.
        """
        async with self._answered("POST", url, body, silence_s) as response:
            if not response.is_success:
                raise await self._refused(response)
            yield response

    def hidden(self, error: HotswapError) -> HotswapError:
        """The error without keys and addresses, which servers quote."""
        return without(self._options.secrets, error)

    @asynccontextmanager
    async def _answered(
        self,
        method: str,
        url: str,
        body: dict[str, Any] | None = None,
        silence_s: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        options = self._options
        retrying = AsyncRetrying(
            stop=stop_after_attempt(options.max_retries + 1),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            retry=retry_if_exception_type((httpx.ConnectError, httpx.ConnectTimeout)),
            reraise=True,
        )
        timeout = httpx.Timeout(
            silence_s or options.first_byte_timeout_s, connect=options.connect_timeout_s
        )
        try:
            request = self._client.build_request(
                method, url, json=body, timeout=timeout, headers=dict(TRACE.get())
            )
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"{self._where}: this cannot be sent as JSON: {error}") from error
        try:
            # Not around the yield: the reader of a stream may be another task.
            async with asyncio.timeout(options.total_timeout_s):
                response: httpx.Response = await retrying(self._client.send, request, stream=True)
            async with aclosing(response):
                yield response
        except (httpx.TimeoutException, TimeoutError) as error:
            raise EngineTimeout(
                f"{self._where}: the server gave no answer in time ({type(error).__name__})"
            ) from error
        except httpx.HTTPError as error:
            # Not its text, which may name the server; who loads the model is told that as well.
            raise EngineUnavailable(
                f"{self._where}: the server cannot be reached or broke off "
                f"({type(error).__name__})",
                1.0,
            ) from error

    async def _refused(self, response: httpx.Response) -> HotswapError:
        """An error status, as one of ours."""
        said = b""
        async for part in response.aiter_bytes():
            said += part
            if len(said) > MOST_ERROR_BYTES:
                break
        headers = {name.lower(): value for name, value in response.headers.items()}
        error = refusal(self._where, response.status_code, headers, said, self._clock())
        # A redirect says nothing of the server but the host that it leads to, which is to be told.
        return self.hidden(error) if response.is_error else error
