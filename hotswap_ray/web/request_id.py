"""Ids of requests: ours is unique and returned; the client's ``x-request-id`` is a label.

Two requests may carry one label (a client that retries, a gateway that numbers a whole page),
but an outcome, a score and ``hotswap explain`` are about one request.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from hotswap_ray.web.asgi import Headers, Scope, header

MOST_LABEL_CHARS = 128
NUMBER, LABEL = "hotswap.request_id", "hotswap.label"
"""Keys of the ASGI scope by which a request that was numbered already says so."""

_SERVE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_REMEMBERED = 10_000


def new_id() -> str:
    """An id that no other request has."""
    return uuid.uuid4().hex


def label(value: str | None) -> str | None:
    """What a client's id is worth as a label: cut if long, ``None`` if it cannot be shown.

    Example:
        >>> label("build 17"), label(""), label("a\\tb"), len(label("x" * 500))
        ('build 17', None, None, 128)
    """
    cut = (value or "")[:MOST_LABEL_CHARS]
    return cut if cut and cut.isprintable() else None


def number(scope: Scope, own: str) -> None:
    """Give a request its id before Serve sees it: Serve returns the ``x-request-id`` that it reads.

    Args:
        scope: Changed in place; the client's id is kept as a label.
        own: From ``new_id``.
    """
    scope[LABEL] = label(header(scope, b"x-request-id"))
    scope[NUMBER] = own
    others = [pair for pair in scope["headers"] if pair[0] != b"x-request-id"]
    scope["headers"] = [*others, (b"x-request-id", own.encode())]


class Ids:
    """Says of each request which id it has.

    Args:
        behind_serve: Serve adds ``x-request-id`` to answers: the client's, or a number of its own.
        new: Makes an id.
    """

    def __init__(self, behind_serve: bool, new: Callable[[], str] = new_id) -> None:
        self._behind_serve = behind_serve
        self._new = new
        self._seen: dict[str, None] = {}

    def of(self, scope: Scope) -> tuple[str, str | None]:
        """The id of a request, and the client's label."""
        if (known := scope.get(NUMBER)) is not None:
            return known, scope.get(LABEL)
        sent = header(scope, b"x-request-id")
        if self._behind_serve and sent is not None and self._is_serves(scope, sent):
            # What the client reads as x-request-id is then our id, without a word with Serve.
            return sent, None
        return self._new(), label(sent)

    def _is_serves(self, scope: Scope, sent: str) -> bool:
        """Whether Serve made this number: its form, the place where it adds it, and never twice."""
        is_last = scope["headers"][-1][0] == b"x-request-id"
        if not is_last or not _SERVE.fullmatch(sent) or sent in self._seen:
            return False
        self._seen[sent] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True


def id_headers(own: str, client_label: str | None, behind_serve: bool) -> Headers:
    """The headers of an answer that name its request; Serve adds ``x-request-id`` itself."""
    headers = [(b"x-hotswap-request-id", own.encode())]
    if not behind_serve:
        headers.append((b"x-request-id", own.encode()))
    if client_label is not None:
        headers.append((b"x-hotswap-label", client_label.encode("latin-1")))
    return headers
