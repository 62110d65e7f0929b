"""TCP ports for what starts later."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

PORTS = range(20_000, 32_000)
"""Ports that stay free: below those that Linux gives away by itself, above Ray's workers'."""


def free_ports(count: int = 1) -> list[int]:
    """Different ports that nobody listens at now.

    Args:
        count: How many, at most 100.

    Raises:
        OSError: Hardly any is free.

    Example:
        >>> len(set(free_ports(3)))
        3
    """
    ports: list[int] = []
    for port in random.sample(PORTS, 1000):
        with socket.socket() as probe, suppress(OSError):  # it is taken
            probe.bind(("0.0.0.0", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free TCP ports among {PORTS.start} to {PORTS.stop - 1}")


def free_port() -> int:
    """A port that nobody listens at now. Raises ``OSError``."""
    return free_ports()[0]
