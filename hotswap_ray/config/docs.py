"""What options a configuration has, read from its JSON schema: the source of its documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from pydantic import BaseModel

Schema = Mapping[str, Any]
_NAMES = {"boolean": "true or false", "object": "map", None: "any"}
_ENTRIES = {"additionalProperties": ".<id>", "items": "[]"}
_UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_bytes": "bytes",
    "_mib": "MiB",
    "_tokens": "tokens",
    "_requests": "requests",
    "_rows": "rows",
}


class Option(NamedTuple):
    """One key of the file.

    Attributes:
        path: Where it stands; ``<id>`` is any name, ``[]`` any item of a list.
        type: What it takes, in words, with its unit.
        default: Its value when absent, as YAML; ``required`` when it must be given.
        bounds: Allowed range or values; empty when any value of the type will do.
        description: What it means.
    """

    path: str
    type: str
    default: str
    bounds: str
    description: str

    def comment(self) -> str:
        """The option in one sentence and its facts, as ``deployments/example.yaml`` has it."""
        facts = [self.type, self.bounds, self.default]
        if self.default != "required":
            facts[2] = f"default {self.default}"
        return f"{self.description} [{'; '.join(fact for fact in facts if fact)}]"


def describe(model: type[BaseModel], prefix: str = "") -> list[Option]:
    """List every option of ``model``, sections before what they hold.

    >>> from hotswap_ray.core.spec.task import Autoscale
    >>> option = describe(Autoscale, "autoscale.")[0]
    >>> option.path, option.comment()
    ('autoscale.min_replicas', 'Fewest replicas. [integer; 0 to 1000; default 1]')
    """
    schema = _schema(model)
    return list(_describe(schema, schema.get("$defs", {}), prefix))


@cache
def _schema(model: type[BaseModel]) -> Schema:
    """The JSON schema, cached because each unknown key of a file needs it again."""
    return model.model_json_schema()


def _describe(section: Schema, parts: Schema, prefix: str) -> Iterator[Option]:
    for name, stated in section["properties"].items():
        schema = _whole(stated, parts)
        inner, suffix = _inner(schema, parts)
        path = prefix + name
        default = "required" if name in section.get("required", ()) else _default(schema)
        text = schema.get("description", "").partition("\n")[0]
        if inner is None:
            kind = _type_name(schema, parts) + _unit(name, schema)
            yield Option(path, kind, default, _bounds(schema), text)
            continue
        kind = {"": "section", ".<id>": "map", "[]": "list"}[suffix]
        text = text or inner["description"].partition("\n")[0]
        yield Option(path, kind, default, "", text)
        for option in _describe(inner, parts, f"{path}{suffix}."):
            # The key of the map is the id, so it is no option of its own.
            if option.path != f"{path}.<id>.id":
                yield option


def known_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Keys that may stand at ``path`` below ``model``; none when that is no section."""
    section: Schema | None = _schema(model)
    parts, steps = _schema(model).get("$defs", {}), list(path)
    while steps and section:
        stated = section["properties"].get(str(steps.pop(0)), {})
        section, suffix = _inner(_whole(stated, parts), parts)
        if suffix and steps:
            steps.pop(0)
    return sorted(section["properties"]) if section else []


def tables(options: Sequence[Option]) -> Iterator[str]:
    """One Markdown table for each top-level key, in the order of the file."""
    for name, group in groupby(options, key=lambda row: row.path.partition(".")[0].strip("[]")):
        first, *rest = group
        yield table(f"`{name}`", first.description if rest else "", rest or [first])


def table(title: str, text: str, options: Sequence[Option]) -> str:
    """A Markdown heading, a sentence and a table of ``options``."""
    lines = [f"## {title}", ""]
    if text:
        lines += [text, ""]
    lines += ["| option | takes | default | range | meaning |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row.path}` | {row.type} | `{row.default}` | {row.bounds} | {row.description} |"
        for row in options
    ]
    return "\n".join(lines)


def _whole(schema: Schema, parts: Schema) -> Schema:
    """A schema with its reference filled in and ``| null`` dropped; its own words win."""
    for choice in schema.get("anyOf", ()):
        if choice.get("type") != "null":
            schema = {**choice, **schema}
    part = schema.get("$ref", "").rpartition("/")[2]
    return {**parts[part], **schema} if part else schema


def _inner(schema: Schema, parts: Schema) -> tuple[Schema | None, str]:
    """The section that an option holds, and how: directly, by id or in a list."""
    for key, suffix in _ENTRIES.items():
        if isinstance(entry := schema.get(key), Mapping):
            entry = _whole(entry, parts)
            return (entry, suffix) if "properties" in entry else (None, "")
    return (schema, "") if "properties" in schema else (None, "")


def _type_name(schema: Schema, parts: Schema) -> str:
    kind = schema.get("type")
    if kind == "array":
        item = _type_name(_whole(schema["items"], parts), parts)
        return f"list of {item}s" if item != "any" else "list"
    return "secret" if schema.get("format") == "password" else _NAMES.get(kind, str(kind))


def _unit(name: str, schema: Schema) -> str:
    """The unit that a number's name says, for example ``, seconds``."""
    if schema.get("type") not in ("integer", "number") or "enum" in schema:
        return ""
    if name.startswith("usd_"):
        return ", US dollars"
    return next((f", {unit}" for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def _default(schema: Schema) -> str:
    # Only maps and sections are made anew for each configuration, which no schema shows.
    match schema.get("default", {}):
        case None:
            return "null"
        case bool(value):
            return str(value).lower()
        case dict(value):
            return "{}" if "properties" in schema else f"{{{', '.join(value)}}}"
        case list(value):
            return f"[{', '.join(map(str, value))}]"
        case int(value) | float(value):
            return _number(value)
        case value:
            return str(value) or '""'


def _bounds(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "maximum" in schema and ("minimum" in schema or "exclusiveMinimum" in schema):
        above = "" if "minimum" in schema else "above "
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        return f"{above}{_number(low)} to {_number(schema['maximum'])}"
    if "maxLength" in schema:
        return f"{schema.get('minLength', 0)} to {schema['maxLength']} characters"
    return ""


def _number(value: float) -> str:
    return f"{value:.16g}"
