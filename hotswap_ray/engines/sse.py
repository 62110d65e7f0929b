r"""Server-sent events, of which an OpenAI-compatible stream is made, from bytes cut anywhere.

Only LF, CRLF and CR end a line. ``str.splitlines`` ends one at U+2028 too, which may stand in a
JSON string, so that a stream read by it breaks in the middle of an event.
"""

from __future__ import annotations

import re

DONE = "[DONE]"
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class Reader:
    """Reads the data of events, as they become complete.

    Of https://html.spec.whatwg.org/multipage/server-sent-events.html, without names, ids and
    reconnection. Differs in one thing: an event that only the end of the stream ends counts.

    Attributes:
        done: Whether ``[DONE]`` came; nothing is read after it.
    """

    def __init__(self) -> None:
        self.done = False
        self._partial = b""
        self._data: list[bytes] = []
        self._is_first = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[str]:
        """The data of every event that ``chunk`` completes, in order, ``[DONE]`` left out."""
        if not chunk:
            return []
        whole = chunk[1:] if self._after_cr and chunk.startswith(b"\n") else chunk
        self._after_cr = chunk.endswith(b"\r")  # the LF of a CRLF may come with the next chunk
        *lines, self._partial = _LINE_END.split(self._partial + whole)
        events = [event for line in lines if (event := self._read(line)) is not None]
        return self._until_done(events)

    def end(self) -> list[str]:
        """The data of the event that the end of the stream completes, if there is one."""
        events = [event for line in (self._partial, b"") if (event := self._read(line)) is not None]
        self._partial = b""
        return self._until_done(events)

    def _read(self, line: bytes) -> str | None:
        """Take in a line; the data of the event that it ends."""
        if self._is_first:
            line, self._is_first = line.removeprefix(_BOM), False
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":  # a comment has an empty name
                self._data.append(value.removeprefix(b" "))
            return None
        data, self._data = b"\n".join(self._data), []
        return data.decode(errors="replace") or None

    def _until_done(self, events: list[str]) -> list[str]:
        completed: list[str] = []
        for event in events:
            self.done = self.done or event.strip() == DONE
            if self.done:
                break
            completed.append(event)
        return completed


def read(raw: bytes) -> list[str]:
    r"""The data of the events of a whole stream.

    Args:
        raw: The stream.

    Returns:
        The data of each event up to ``[DONE]``.

    Example:
        >>> read(b': hello\n\ndata: {"id":\ndata: 1}\n\ndata: [DONE]\n\n')
        ['{"id":\n1}']
    """
    reader = Reader()
    return [*reader.feed(raw), *reader.end()]
