"""HTTP with one more try where a connection that was kept alive turns out to be dead.

A server may close an idle connection in the moment in which a request leaves on it. Then no byte of
an answer comes, and the request goes once more, on a connection of its own. A request whose
connection was new, or that got a byte, is never sent again: the server may have worked on it.

httpx does not tell the two cases apart, so this transport asks httpcore, which httpx stands on.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

KEEP_ALIVE_S = 5.0
_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


@dataclass(slots=True)
class _Exchange:
    """What the network saw of one request."""

    is_new: bool = False
    was_heard: bool = False


_exchange: ContextVar[_Exchange | None] = ContextVar("exchange", default=None)


class Transport(httpx.AsyncBaseTransport):
    """Sends requests of one server, directly or by a proxy.

    Args:
        is_secure: Whether the server or the proxy is reached by TLS.
        proxy: Of the form ``http://user:password@host:port``; ``None`` for none.
    """

    def __init__(self, is_secure: bool, proxy: str | None = None) -> None:
        tls = httpx.create_ssl_context() if is_secure else None
        self._pool = _pool(proxy, tls, most_idle=None)
        self._fresh = _pool(proxy, tls, most_idle=0)  # each request gets a new connection

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; see the module for when it is sent twice."""
        exchange = _Exchange()
        token = _exchange.set(exchange)
        try:
            return await _sent(self._pool, request)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if exchange.is_new or exchange.was_heard:
                raise
        finally:
            _exchange.reset(token)
        return await _sent(self._fresh, request)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()
        await self._fresh.aclose()


def environment_proxy(url: httpx.URL) -> str | None:
    """The proxy that the environment names for a URL (``HTTPS_PROXY``, ``NO_PROXY``).

    Args:
        url: Of the server.

    Returns:
        The proxy's URL; ``None`` if it is reached directly.
    """
    if proxy_bypass(f"{url.host}:{url.port}" if url.port else url.host):
        return None
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that notes what it hears."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(max_bytes, timeout)
        if data and (exchange := _exchange.get()) is not None:
            exchange.was_heard = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Network(httpcore.AnyIOBackend):
    """The network, noting which request made a connection."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if (exchange := _exchange.get()) is not None:
            exchange.is_new = True
        stream = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream)


class _Body(httpx.AsyncByteStream):
    """The body of an answer, whose errors are those of httpx."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of_httpx():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _pool(
    proxy: str | None, tls: ssl.SSLContext | None, most_idle: int | None
) -> httpcore.AsyncConnectionPool:
    limits = {
        "max_connections": None,
        "max_keepalive_connections": most_idle,
        "keepalive_expiry": KEEP_ALIVE_S,
    }
    if proxy is None:
        return httpcore.AsyncConnectionPool(tls, network_backend=_Network(), **limits)  # type: ignore[arg-type]
    described = httpx.Proxy(proxy)
    return httpcore.AsyncHTTPProxy(
        str(described.url),
        proxy_auth=described.raw_auth,
        ssl_context=tls,
        proxy_ssl_context=tls if described.url.scheme == "https" else None,
        network_backend=_Network(),
        **limits,  # type: ignore[arg-type]
    )


async def _sent(pool: httpcore.AsyncConnectionPool, request: httpx.Request) -> httpx.Response:
    url = httpcore.URL(
        scheme=request.url.raw_scheme,
        host=request.url.raw_host,
        port=request.url.port,
        target=request.url.raw_path,
    )
    with _errors_of_httpx():
        answer = await pool.handle_async_request(
            httpcore.Request(
                request.method,
                url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
    return httpx.Response(
        answer.status,
        headers=answer.headers,
        stream=_Body(answer.stream),
        extensions=answer.extensions,
    )


@contextmanager
def _errors_of_httpx() -> Iterator[None]:
    """Raise what httpx would: its errors have the names of httpcore's."""
    try:
        yield
    except _ERRORS as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
