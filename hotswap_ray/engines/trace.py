"""The W3C trace that a request belongs to, for engines that ask another server.

Of https://www.w3.org/TR/trace-context/. A context variable, since few requests have one and
fewer engines care: it would be one more argument of every method of ``engines.base.Engine``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

TRACE: ContextVar[Mapping[str, str]] = ContextVar("trace", default={})  # noqa: B039 - never changed
"""Headers to send along, ``traceparent`` and ``tracestate``; empty without a trace."""
