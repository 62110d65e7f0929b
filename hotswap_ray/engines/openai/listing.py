"""Which models a server has, from the several forms in which servers list them."""

from __future__ import annotations

from typing import Any

MOST_NAMED = 50
"""Models that a message names; some servers have hundreds."""


def listed(value: Any) -> list[str] | None:
    """The names in a list of models.

    Args:
        value: What ``GET /v1/models`` gave, as JSON.

    Returns:
        Names in their order; ``None`` if this is no list of models. A page of a longer list is
        a list.

    Example:
        >>> listed({"data": [{"id": "a"}]}), listed([{"id": "a"}]), listed(["a"])
        (['a'], ['a'], ['a'])
        >>> listed({"models": [{"name": "a"}, {"model": "b"}]}), listed({"models": []})
        (['a', 'b'], [])
        >>> listed({"status": "ok"}) is None, listed([1]) is None
        (True, True)
    """
    if isinstance(value, dict):
        held = [value[key] for key in ("data", "models") if key in value]
        value = next((one for one in held if one is not None), [] if held else None)
    if not isinstance(value, list):
        return None
    names = [name for entry in value for name in _names(entry)]
    return names if names or not value else None


def has(names: list[str], model: str) -> bool:
    """Whether a list names a model; Ollama lists ``llama3:latest`` for ``llama3``.

    Example:
        >>> has(["llama3:latest"], "llama3"), has(["llama3:8b"], "llama3")
        (True, False)
    """
    return model in names or f"{model}:latest" in names


def spoken(names: list[str]) -> str:
    """The names in a sentence, at most ``MOST_NAMED``.

    Example:
        >>> spoken(["b", "a"]), spoken([])
        ('a, b', 'none')
    """
    first = sorted(set(names))[:MOST_NAMED]
    more = len(set(names)) - len(first)
    return (", ".join(first) or "none") + (f" and {more} more" if more else "")


def _names(entry: Any) -> list[str]:
    """Every name of one entry: a server may take its id, its name and its model."""
    if isinstance(entry, str):
        return [entry]
    fields = entry if isinstance(entry, dict) else {}
    found = [fields.get(key) for key in ("id", "name", "model")]
    return list(dict.fromkeys(name for name in found if isinstance(name, str) and name))
