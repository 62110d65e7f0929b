"""Any OpenAI-compatible server as an engine: Ollama, llama-server, vLLM, a hosted API.

Nothing is loaded here; ``start`` checks that the server answers and has the model. Errors
of the server become ours, so the ingress treats a remote model as it does any other::

    400 404 409 413 422 and other 4xx    InvalidRequest      with the server's message
    429                                  Overloaded          with its Retry-After
    401 403                              EngineError         our key is wrong, not the client's
    5xx, no connection                   EngineUnavailable
    no first byte, or no end, in time    EngineTimeout

Only a connection that could not be made is tried again: the server has seen nothing yet.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from hotswap_ray.core.errors import (
    EngineError,
    EngineLoadFailed,
    EngineTimeout,
    EngineUnavailable,
    HotswapError,
    InvalidRequest,
    NotSupported,
    Overloaded,
)
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines import sse
from hotswap_ray.engines.answers import UsageSum
from hotswap_ray.engines.base import default_deployment_options, parse_options


class OpenAIOptions(BaseModel):
    """Options of the engine for OpenAI-compatible servers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str = Field(
        pattern=r"^https?://", max_length=2048, description="Up to and including /v1."
    )
    api_key: SecretStr | None = Field(None, description="Sent as a bearer token.")
    connect_timeout_s: float = Field(5, gt=0, le=3600, description="Time to connect.")
    first_byte_timeout_s: float = Field(
        60, gt=0, le=86_400, description="Of a stream: to the first byte, and between two chunks."
    )
    total_timeout_s: float = Field(600, gt=0, le=86_400, description="Time to the last byte.")
    max_retries: int = Field(2, ge=0, le=20, description="Further tries to connect.")
    health_path: str | None = Field(
        None, max_length=1024, description="Path on the server for health; /v1/models if unset."
    )
    vllm_sleep: bool = Field(
        False, description="The server is a vLLM with --enable-sleep-mode in development mode."
    )


class OpenAIEngine:
    """Forwards requests to a server that has ``spec.source`` (default ``spec.id``)."""

    Options: ClassVar[type[BaseModel]] = OpenAIOptions

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._options: OpenAIOptions = parse_options(OpenAIEngine, spec)
        self._model = spec.source or spec.id
        self._client: httpx.AsyncClient | None = None

    @classmethod
    def deployment_options(cls, spec: ModelSpec) -> dict[str, Any]:
        """Ray options that ``spec`` asks for."""
        return default_deployment_options(spec)

    @classmethod
    def can_sleep(cls, spec: ModelSpec) -> bool:
        """Only where ``vllm_sleep`` says so."""
        return bool(parse_options(cls, spec).vllm_sleep)

    async def start(self) -> None:
        """Check that the server answers and lists the model.

        Raises:
            EngineLoadFailed: It does not; the message says what it said, or what it has.
        """
        options = self._options
        key = options.api_key.get_secret_value() if options.api_key else None
        self._client = httpx.AsyncClient(
            base_url=options.base_url.rstrip("/") + "/",
            headers={"authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=None),
        )
        try:
            async with self._request("GET", "models") as response:
                listing = json.loads(await response.aread())
            names = [str(entry["id"]) for entry in listing["data"]]
        except (HotswapError, ValueError, KeyError, TypeError) as error:
            await self.stop()
            raise EngineLoadFailed(
                f"{self._spec.id}: {options.base_url} does not list models as OpenAI does: {error}"
            ) from error
        # Ollama lists "llama3:latest" for what requests may call "llama3".
        if self._model not in names and f"{self._model}:latest" not in names:
            await self.stop()
            raise EngineLoadFailed(
                f"{self._spec.id}: {options.base_url} has no model {self._model!r}; "
                f"it has: {', '.join(sorted(names)) or 'none'}"
            )

    async def generate(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Answer whole; see ``Engine.generate``."""
        request = {key: value for key, value in body.items() if key != "stream_options"}
        request |= {"model": self._model, "stream": False}
        # A whole answer has its first byte when it is done, so only the total limit fits it.
        limit_s = self._options.total_timeout_s
        async with self._request("POST", endpoint, request, limit_s) as response:
            async with asyncio.timeout(limit_s):
                answer = self._parse(await response.aread())
        usage = UsageSum()
        usage.add(answer.get("usage"))
        return {**answer, "model": self._spec.id, "usage": usage.total()}

    async def stream(
        self, endpoint: Endpoint, body: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Answer in the server's chunks; the last has ``usage`` and no choices.

        Where the server counts nothing, ``completion_tokens`` is the number of chunks with
        content (an estimate) and ``prompt_tokens`` is 0.
        """
        request = {
            **body,
            "model": self._model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        usage, estimate = UsageSum(), 0
        head: dict[str, Any] = {}
        async with (
            self._request("POST", endpoint, request) as response,
            aclosing(self._events(response)) as events,
        ):
            async for chunk in events:
                usage.add(chunk.pop("usage", None))
                if not chunk.get("choices"):
                    continue
                estimate += any(_has_content(choice) for choice in chunk["choices"])
                head = {**chunk, "model": self._spec.id}
                yield head
        if not head:
            raise EngineUnavailable(f"{self._spec.id}: the server ended the stream at once")
        counted = usage.total() if usage.has_counts else _estimated(estimate)
        yield {**head, "choices": [], "usage": counted}

    async def sleep(self) -> None:
        """Let a vLLM server sleep (level 1); others cannot."""
        await self._vllm("sleep?level=1")

    async def wake(self) -> None:
        """Wake a vLLM server."""
        await self._vllm("wake_up")

    async def stop(self) -> None:
        """Close the connections; the server goes on."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def memory_bytes(self) -> int:
        """0: the memory of a remote server is not known."""
        return 0

    async def check_health(self) -> None:
        """Raise ``EngineUnavailable`` if the server does not answer."""
        path = self._options.health_path
        url = "models" if path is None else f"{self._root()}/{path.lstrip('/')}"
        async with self._request("GET", url) as response:
            await response.aread()

    def _root(self) -> str:
        """The server without the path ``/v1``."""
        return str(httpx.URL(self._options.base_url).copy_with(path="/")).rstrip("/")

    async def _vllm(self, path: str) -> None:
        if not self._options.vllm_sleep:
            raise NotSupported(
                f"{self._spec.id}: a remote server cannot sleep; "
                "for vLLM in development mode set vllm_sleep: true"
            )
        async with self._request("POST", f"{self._root()}/{path}") as response:
            await response.aread()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: str,
        body: dict[str, Any] | None = None,
        silence_s: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send, retry connecting, map every failure; the body is not read yet.

        ``silence_s`` is the longest time without a byte, ``first_byte_timeout_s`` if unset.
        """
        client = self._client
        if client is None:
            raise EngineUnavailable(f"{self._spec.id}: the engine is not started")
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._options.max_retries + 1),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            retry=retry_if_exception_type((httpx.ConnectError, httpx.ConnectTimeout)),
            reraise=True,
        )
        options = self._options
        timeout = httpx.Timeout(
            silence_s or options.first_byte_timeout_s, connect=options.connect_timeout_s
        )
        request = client.build_request(method, url, json=body, timeout=timeout)
        try:
            # Not around the yield: the reader of a stream may be another task.
            async with asyncio.timeout(self._options.total_timeout_s):
                response: httpx.Response = await retrying(client.send, request, stream=True)
            async with aclosing(response):
                if response.is_error:
                    await response.aread()
                    raise self._refused(response)
                yield response
        except (httpx.TimeoutException, TimeoutError) as error:
            raise EngineTimeout(
                f"{self._spec.id}: {self._options.base_url} gave no answer in time "
                f"({type(error).__name__})"
            ) from error
        except httpx.HTTPError as error:
            raise EngineUnavailable(
                f"{self._spec.id}: {self._options.base_url}: {type(error).__name__}: {error}", 1.0
            ) from error

    async def _events(self, response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a server-sent event stream, up to its regular end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.total_timeout_s
        finished = False
        reader = sse.Reader()
        async for data in response.aiter_bytes():
            if loop.time() > deadline:
                raise TimeoutError
            for chunk in map(self._parse, reader.feed(data)):
                finished = finished or _is_last(chunk)
                yield chunk
            if reader.done:
                return
        for chunk in map(self._parse, reader.end()):
            finished = finished or _is_last(chunk)
            yield chunk
        if not (finished or reader.done):
            raise EngineUnavailable(f"{self._spec.id}: the server cut the stream off")

    def _parse(self, text: str | bytes) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise EngineError(f"{self._spec.id}: the server's answer is not a JSON object")
        if error := value.get("error"):
            raise EngineError(f"{self._spec.id}: {_message(error)}")
        return value

    def _refused(self, response: httpx.Response) -> HotswapError:
        """An error status of the server, as one of ours."""
        status = response.status_code
        try:
            body = response.json()
        except ValueError:
            body = response.text[:500]
        text = f"{self._spec.id}: {_message(body)} (status {status} of the server)"
        if status == 429:
            return Overloaded(text, _seconds(response.headers.get("retry-after")))
        if status in (401, 403):
            return EngineError(text)
        if status in (408, 504):
            return EngineTimeout(text)
        if status >= 500:
            return EngineUnavailable(text, _seconds(response.headers.get("retry-after")))
        return InvalidRequest(text)


def _message(body: Any) -> str:
    """The sentence in an error body, whichever of the usual shapes it has."""
    while isinstance(body, dict):
        body = body.get("error") or body.get("message") or body.get("detail") or json.dumps(body)
    return str(body)


def _seconds(retry_after: str | None) -> float | None:
    try:
        return None if retry_after is None else max(0.0, float(retry_after))
    except ValueError:  # an HTTP date
        return None


def _is_last(chunk: dict[str, Any]) -> bool:
    return any(choice.get("finish_reason") for choice in chunk.get("choices") or ())


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or delta.get("content") or delta.get("tool_calls"))


def _estimated(chunks: int) -> dict[str, int]:
    return {"prompt_tokens": 0, "completion_tokens": chunks, "total_tokens": chunks}
