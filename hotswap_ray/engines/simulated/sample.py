"""A value for a JSON schema: the simplest that it takes. Pure."""

from __future__ import annotations

from typing import Any

MOST_DEPTH = 16
"""Schemas may contain themselves; below this, what is asked for is left out."""


def sample(schema: Any, text: str, *, every: bool = False) -> Any:
    """A value that a simple schema takes.

    Args:
        schema: A JSON schema. Types, constants, choices, bounds of length and local references
            are met; patterns and formats are not.
        text: Where a string is asked for.
        every: Whether objects get all their properties, not the required ones only.

    Example:
        >>> city = {"type": "object", "required": ["name", "size"], "properties": {
        ...     "name": {"type": "string"}, "size": {"type": "integer"}, "note": {}}}
        >>> sample(city, "Oslo")
        {'name': 'Oslo', 'size': 0}
        >>> sample({"enum": ["a", "b"]}, "Oslo")
        'a'
    """
    return _sample(schema, schema, text, every, 0)


def _sample(schema: Any, root: Any, text: str, every: bool, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > MOST_DEPTH:
        return text
    if isinstance(schema.get("$ref"), str):
        return _sample(_resolved(root, schema["$ref"]), root, text, every, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return _sample(schema[several][0], root, text, every, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            properties = schema.get("properties", {})
            names = properties if every else schema.get("required", ())
            return {
                name: _sample(properties.get(name, {}), root, text, every, depth + 1)
                for name in names
            }
        case "array":
            item = _sample(schema.get("items", {}), root, text, every, depth + 1)
            return [item] * schema.get("minItems", 0)
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            least, most = schema.get("minLength", 0), schema.get("maxLength")
            return text.ljust(least, ".")[:most]


def _number(schema: dict[str, Any]) -> Any:
    """The number nearest to 0 within the bounds."""
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    most = schema.get("maximum", schema.get("exclusiveMaximum", 0))
    number = max(least, 0) if least > 0 else min(most, 0)
    if number in (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")):
        number += 1 if number == schema.get("exclusiveMinimum") else -1
    return number


def _resolved(root: Any, reference: str) -> Any:
    node = root
    for step in filter(None, reference.removeprefix("#").split("/")):
        node = node.get(step.replace("~1", "/").replace("~0", "~"), {})
    return node
