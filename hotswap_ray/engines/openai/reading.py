"""What a server sends as an answer, read: JSON of any quality, and the chunks of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hotswap_ray.core.errors import EngineError
from hotswap_ray.engines import sse
from hotswap_ray.engines.answers import LastUsage, as_chunks, has_content
from hotswap_ray.engines.openai.halves import Halves, valid
from hotswap_ray.engines.openai.refusals import error_of, said_error

_BOM = b"\xef\xbb\xbf"


def parsed(where: str, data: str | bytes, halves: Halves | None = None) -> dict[str, Any]:
    r"""The object in a body or an event.

    Args:
        where: Begins the message of an error; the model's id.
        data: JSON.
        halves: Of a stream, where half a character may find the other half in the next event.

    Returns:
        The object; it is no error.

    Raises:
        HotswapError: It is no object, or an error that the server reports.

    Example:
        >>> parsed("m", r'{"text": "a\ud83d"}')
        {'text': 'a�'}
    """
    text = data if isinstance(data, str) else data.removeprefix(_BOM).decode(errors="replace")
    try:
        value = json.loads(text, parse_int=_number)
    except (ValueError, RecursionError):
        value = None
    if halves or "\\ud" in text or "\\uD" in text:
        value = valid(value) if halves is None else halves.join(value)
    if (error := error_of(value)) is not None:
        raise said_error(where, error)
    if not isinstance(value, dict):
        raise EngineError(f"{where}: the server's answer is not a JSON object")
    return value


def whole(where: str, data: bytes) -> dict[str, Any]:
    """A whole answer.

    Raises:
        HotswapError: As in ``parsed``, or it has no choices.
    """
    answer = parsed(where, data)
    answer["choices"] = choices_of(answer)
    if not answer["choices"]:
        raise EngineError(f"{where}: the server's answer has no choices")
    return answer


def choices_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of an answer or a chunk, each with an index.

    Example:
        >>> choices_of({"choices": [{"text": "a"}]}), choices_of({"choices": None})
        ([{'text': 'a', 'index': 0}], [])
    """
    found = answer.get("choices")
    choices = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    for number, choice in enumerate(choices):
        if not isinstance(choice.get("index"), int):
            choice["index"] = number
    return choices


def choices_asked(body: dict[str, Any]) -> int:
    """How many choices a request asks for: some servers make one after another.

    Example:
        >>> choices_asked({"prompt": ["a", "b"], "n": 2}), choices_asked({"prompt": [1, 2]})
        (4, 1)
    """
    n, prompt = body.get("n"), body.get("prompt")
    prompts = prompt if isinstance(prompt, list) else []
    several = not any(isinstance(part, int) for part in prompts)  # or it is one, in tokens
    return max(1, n if isinstance(n, int) else 1) * max(1, len(prompts) if several else 1)


class AnswerReader:
    """Reads what came where a stream was asked for: events, or a whole answer of a server that
    does not stream. The first character tells them apart; the content type need not be true.

    Args:
        where: Begins the message of an error; the model's id.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._events = sse.Reader()
        self._begin = b""
        self._is_whole: bool | None = None
        self._halves = Halves()

    @property
    def done(self) -> bool:
        """Whether ``[DONE]`` came."""
        return self._events.done

    def feed(self, part: bytes) -> Iterator[dict[str, Any]]:
        """The chunks that these bytes complete, one by one: an error does not hide those before."""
        self._begin += part
        if self._is_whole is None and (start := self._begin.lstrip(_BOM + b" \t\r\n")):
            self._is_whole = start[:1] in (b"{", b"[")
        if self._is_whole is False:
            begin, self._begin = self._begin, b""
            for event in self._events.feed(begin):
                yield parsed(self._where, event, self._halves)

    def end(self) -> Iterator[dict[str, Any]]:
        """The chunks that the end of the answer completes."""
        if self._is_whole:
            yield from as_chunks(whole(self._where, self._begin))
        for event in self._events.end():
            yield parsed(self._where, event, self._halves)


class StreamReading:
    """What is known of a stream, chunk by chunk.

    Args:
        model: The name that the chunks get.
        awaited: How many choices were asked for.

    Attributes:
        has_content: Whether a chunk with content came.
    """

    def __init__(self, model: str, awaited: int = 1) -> None:
        self._model = model
        self._awaited = awaited
        self._usage = LastUsage()
        self._head: dict[str, Any] = {}
        self._said = 0
        self._open: dict[int, bool] = {}
        self.has_content = False

    def take(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """Take a chunk of the server; the chunk to pass on, if there is something in it."""
        self._usage.add(chunk.pop("usage", None))
        choices = choices_of(chunk)
        self._head = {**self._head, **chunk, "choices": [], "model": self._model}
        if not choices:
            return None
        says = any(map(has_content, choices))
        self._said += says
        self.has_content = self.has_content or says
        for choice in choices:
            index = choice["index"]  # what has finished stays so: its usage may come in a chunk
            self._open[index] = self._open.get(index, True) and not choice.get("finish_reason")
        return {**chunk, "choices": choices, "model": self._model}

    @property
    def has_begun(self) -> bool:
        """Whether a chunk with a choice came."""
        return bool(self._open)

    @property
    def is_finished(self) -> bool:
        """Whether every choice that began has a ``finish_reason``."""
        return self.has_begun and not any(self._open.values())

    @property
    def is_complete(self) -> bool:
        """Whether every choice that was asked for has a ``finish_reason``."""
        return self.is_finished and len(self._open) >= self._awaited

    def last(self) -> dict[str, Any]:
        """The chunk with ``usage``; where the server counted nothing, an estimate.

        It is the number of chunks with content; the prompt's tokens are 0.
        """
        if not self._usage.has_counts:
            said = self._said
            estimate = {"prompt_tokens": 0, "completion_tokens": said, "total_tokens": said}
            return {**self._head, "usage": {**self._usage.total(), **estimate}}
        return {**self._head, "usage": self._usage.total()}


def _number(digits: str) -> int | float:
    """A whole number, as a float where it needs more than the 64 bits that JSON writers take."""
    return int(digits) if len(digits) < 19 else float(digits)
