r"""Halves of characters: a server that counts in UTF-16 may cut an emoji in two.

Each half comes as an escape (``\ud83d``), which JSON may hold and UTF-8 may not. Halves that two
chunks brought are one character; a half that stays alone is replaced, since nothing behind the
engine could pass it on.
"""

from __future__ import annotations

from typing import Any


def valid(value: Any) -> Any:
    r"""The value with halves joined where they meet, and replaced where they do not.

    Example:
        >>> valid({"a": ["\ud83d\ude00", "\ud83d"]})
        {'a': ['😀', '�']}
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [valid(one) for one in value]
    if isinstance(value, dict):
        return {valid(key): valid(one) for key, one in value.items()}
    return value


class Halves:
    """First halves at the end of a chunk's texts, held until the next chunk."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def join(self, chunk: Any) -> Any:
        r"""The chunk with valid texts: what was held comes first, and a first half is held.

        Example:
            >>> halves = Halves()
            >>> chunks = [{"choices": [{"index": 0, "text": t}]} for t in ("a\ud83d", "\ude00")]
            >>> [halves.join(chunk)["choices"][0]["text"] for chunk in chunks]
            ['a', '😀']
        """
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        for number, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict):
                index = choice.get("index")
                delta = choice.get("delta")
                part = delta if isinstance(delta, dict) else choice
                is_last = bool(choice.get("finish_reason"))
                self._join(index if isinstance(index, int) else number, part, is_last)
        return valid(chunk)

    def _join(self, index: int, part: dict[str, Any], is_last: bool) -> None:
        for name, text in part.items():
            if isinstance(text, str):
                whole = self._held.pop((index, name), "") + text
                if whole and not is_last and "\ud800" <= whole[-1] <= "\udbff":
                    self._held[index, name], whole = whole[-1], whole[:-1]
                part[name] = whole
