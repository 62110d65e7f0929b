"""How a process that is not part of hotswap_ray reaches one that runs: Ray, calls, events.

Everything asynchronous happens on one thread of our own. So the handle works the same in
a script, a notebook with a running loop, a task and an actor; and Serve's handles, which
in throughput mode need a running event loop, find one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from hotswap_ray.actors.cluster.connection import cause
from hotswap_ray.actors.cluster.fleet import INGRESS_APP, INGRESS_DEPLOYMENT
from hotswap_ray.actors.cluster.names import CONTROLLER, LEARNING
from hotswap_ray.actors.cluster.proxy import ActorProxy
from hotswap_ray.core.errors import ClusterUnavailable, EngineTimeout, HotswapError

T = TypeVar("T")
RESTART_S = 20.0
"""Longest wait for an actor that is being restarted; it takes about 2 s."""
LONGEST_S = 86_400.0
START = "start it with `hotswap serve CONFIG`, or say where it runs by RAY_ADDRESS"


class ClusterLink:
    """Calls to the actors and the ingress of one running hotswap_ray.

    Args:
        namespace: Ray namespace of the actors.
        owns_ray: Whether ``close`` disconnects from Ray.
    """

    def __init__(self, namespace: str, owns_ray: bool) -> None:
        self._owns_ray = owns_ray
        self._handle: Any = None
        self._proxies = {
            name: ActorProxy(name, namespace, LONGEST_S) for name in (CONTROLLER, LEARNING)
        }
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="hotswap-client", daemon=True
        )
        self._thread.start()

    def controller(self, method: str, *args: Any, timeout_s: float = 60, **kwargs: Any) -> Any:
        """Call the controller; the call is repeated while the controller is being restarted.

        Only for calls that may be repeated: reads, and those that carry an id.

        Raises:
            HotswapError: The controller's own error, or it cannot be reached.
        """
        for attempt in Retrying(
            retry=retry_if_exception(_lost),
            stop=stop_after_delay(RESTART_S),
            wait=wait_exponential(0.1, max=2),
            reraise=True,
        ):
            with attempt:
                return self.controller_once(method, *args, timeout_s=timeout_s, **kwargs)

    def controller_once(self, method: str, *args: Any, timeout_s: float = 60, **kwargs: Any) -> Any:
        """Call the controller as ``controller`` does, but never repeat the call."""
        call = getattr(self._proxies[CONTROLLER], method)(*args, **kwargs)
        return self._run(call, timeout_s, f"controller.{method}")

    def learning(self, method: str, *args: Any, timeout_s: float = 60, **kwargs: Any) -> Any:
        """Call the learning actor; Ray itself repeats a call that a restart cut off."""
        call = getattr(self._proxies[LEARNING], method)(*args, **kwargs)
        return self._run(call, timeout_s, f"learning.{method}")

    def ingress(self, method: str, *args: Any, timeout_s: float) -> Any:
        """Call a replica of the ingress."""
        return self._run(self._ingress(method, args), timeout_s, f"ingress.{method}")

    async def _ingress(self, method: str, args: tuple[Any, ...]) -> Any:
        import ray
        from ray import serve

        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(
                    serve.get_deployment_handle, INGRESS_DEPLOYMENT, INGRESS_APP
                )
                if self._owns_ray:  # the output of a user's own process stays free of Serve's log
                    logging.getLogger("ray.serve").setLevel(logging.ERROR)
            return await getattr(self._handle, method).remote(*args)
        except (ray.exceptions.RayError, serve.exceptions.RayServeException) as error:
            raise cause(error) from None

    def _run(self, work: Coroutine[Any, Any, T], timeout_s: float, what: str) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as error:
            future.cancel()
            raise EngineTimeout(f"{what} did not answer within {timeout_s:g} s") from error
        except BaseException:
            future.cancel()  # so that Ctrl-C leaves no call running
            raise

    def close(self) -> None:
        """Stop the thread; disconnect from Ray if ``connect`` connected."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if self._owns_ray:
            import ray

            ray.shutdown()


def connect(address: str | None, namespace: str) -> ClusterLink:
    """Join the Ray cluster, unless this process is part of one, and find hotswap_ray there.

    Args:
        address: Ray address; ``None`` for ``RAY_ADDRESS``, else where ``hotswap serve`` runs
            on this machine, else any Ray cluster on this machine.
        namespace: Ray namespace of the actors.

    Raises:
        ClusterUnavailable: No cluster, or no hotswap_ray on it.
    """
    use_token()
    import ray

    owns_ray = not ray.is_initialized()
    where = address or os.environ.get("RAY_ADDRESS") or _noted_address(namespace) or "auto"
    if owns_ray:
        if where != "auto" and not _listens(where):  # Ray itself would try for minutes
            raise ClusterUnavailable(f"no Ray cluster at {where!r}; {START}")
        try:
            ray.init(
                address=where,
                namespace=namespace,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            reason = str(error).strip().partition("\n")[0][:300]
            raise ClusterUnavailable(f"no Ray cluster at {where!r}: {reason}; {START}") from error
    try:
        ray.get_actor(CONTROLLER, namespace=namespace)
    except ValueError:
        if owns_ray:
            ray.shutdown()
        raise ClusterUnavailable(
            f"the Ray cluster ({where}) runs no hotswap_ray in namespace {namespace!r}; {START}"
        ) from None
    return ClusterLink(namespace, owns_ray)


def remember(address: str, namespace: str) -> None:
    """Note where hotswap_ray runs: of several Ray on a machine, this is the one meant."""
    path = _note_path(namespace)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(address, encoding="utf-8")


def forget(namespace: str) -> None:
    """Delete the note of ``remember``: hotswap_ray no longer runs there."""
    _note_path(namespace).unlink(missing_ok=True)


def _noted_address(namespace: str) -> str | None:
    """The address that ``remember`` noted, if something listens there."""
    try:
        address = _note_path(namespace).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return address if _listens(address) else None


def _listens(address: str) -> bool:
    """Whether anything accepts connections at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True


def _note_path(namespace: str) -> Path:
    return Path.home() / ".local" / "state" / "hotswap_ray" / f"{namespace}.ray-address"


def use_token() -> None:
    """Send Ray's token if this machine has one.

    Ray does that by itself only for the address ``auto``. The variable must be there before
    Ray is imported; a cluster without tokens ignores it.
    """
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or token.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _lost(error: BaseException) -> bool:
    """Whether an actor could not be reached, rather than refused."""
    from ray.exceptions import RayError

    return isinstance(error, HotswapError) and isinstance(error.__cause__, RayError | ValueError)
