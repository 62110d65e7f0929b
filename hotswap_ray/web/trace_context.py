"""The W3C trace context of a request, so that a model's server stands in the caller's trace."""

from __future__ import annotations

import re

from hotswap_ray.web.asgi import Scope

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_MOST_STATE_CHARS = 512
_MOST_MEMBERS = 32


def traceparent(value: str) -> str | None:
    """A ``traceparent`` that may be passed on, else ``None``.

    Version 00 has four parts; a later one may have more, which belong to it.

    Example:
        >>> traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
        >>> traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01")
        >>> traceparent("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    """
    found = _PARENT.fullmatch(value.strip())
    if found is None:
        return None
    version, trace, parent, more = found.groups()
    if (
        version == "ff"
        or (version == "00" and more)
        or not (trace.strip("0") and parent.strip("0"))
    ):
        return None
    return found[0]


def tracestate(values: list[str]) -> str | None:
    """The header lines of ``tracestate`` as one, else ``None``: a part of it would be another.

    Example:
        >>> tracestate(["a=1", " b=2"]), tracestate([]), tracestate(["no pair"])
        ('a=1,b=2', None, None)
    """
    members = [one.strip() for line in values for one in line.split(",") if one.strip()]
    joined = ",".join(members)
    fits = 0 < len(members) <= _MOST_MEMBERS and len(joined) <= _MOST_STATE_CHARS
    is_valid = all("=" in one and one.isascii() and one.isprintable() for one in members)
    return joined if fits and is_valid else None


def trace_headers(scope: Scope) -> dict[str, str]:
    """The headers of a request's trace that a model's server should get; empty without a trace.

    Several ``traceparent`` are none: nobody can say which one is meant.
    """
    parents, states = [], []
    for name, value in scope["headers"]:
        if name == b"traceparent":
            parents.append(value.decode("latin-1"))
        elif name == b"tracestate":
            states.append(value.decode("latin-1"))
    parent = traceparent(parents[0]) if len(parents) == 1 else None
    if parent is None:
        return {}
    state = tracestate(states)
    return {"traceparent": parent, **({"tracestate": state} if state else {})}
