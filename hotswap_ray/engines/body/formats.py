"""``response_format``: the JSON schema that an answer must meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from hotswap_ray.core.errors import InvalidRequest

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def read_format(asked: Any) -> dict[str, Any] | None:
    """The schema that ``response_format`` asks for.

    Args:
        asked: ``response_format`` of the body; ``None`` if it has none.

    Returns:
        A JSON schema, ``ANY_OBJECT`` for ``json_object``, or ``None`` for text.

    Raises:
        InvalidRequest: The format is not known, or its schema is none.

    Example:
        >>> read_format({"type": "json_object"}), read_format({"type": "text"})
        ({'type': 'object'}, None)
        >>> read_format({"type": "poem"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        hotswap_ray.core.errors.InvalidRequest: response_format.type must be text, json_object...
    """
    if asked is None:
        return None
    kind = asked.get("type") if isinstance(asked, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if kind != "json_schema":
        raise InvalidRequest(
            f"response_format.type must be text, json_object or json_schema, not {kind!r}"
        )
    named = asked.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise InvalidRequest("response_format.json_schema needs a schema, an object")
    check_schema("response_format.json_schema.schema", schema)
    return schema


def check_schema(where: str, schema: dict[str, Any]) -> None:
    """Refuse what is no JSON schema, or refers to what is not in it.

    Args:
        where: The field, for the error.
        schema: What a client calls a schema.

    Raises:
        InvalidRequest: It is none; the message says why.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = ".".join(map(str, error.absolute_path))
        raise InvalidRequest(
            f"{where} is no JSON schema: {f'{place}: ' if place else ''}{error.message}"
        ) from None
    for reference in _references(schema):
        if not _resolves(schema, reference):
            raise InvalidRequest(f"{where}: $ref {reference!r} leads nowhere within the schema")


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _resolves(schema: Any, reference: str) -> bool:
    if not reference.startswith("#"):
        return False
    for raw in filter(None, reference[1:].split("/")):
        step = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict) and step in schema:
            schema = schema[step]
        elif isinstance(schema, list) and step.isdecimal() and int(step) < len(schema):
            schema = schema[int(step)]
        else:
            return False
    return True
