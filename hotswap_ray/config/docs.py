"""What options a configuration has, read from its models: the source of its documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

_NAMES = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "true or false",
    SecretStr: "secret",
    Any: "any",
}
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
    return list(_describe(model, prefix))


def _describe(model: type[BaseModel], prefix: str) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        path = prefix + name
        inner, suffix = _inner(field.annotation)
        if inner is None:
            yield Option(
                path,
                _type_name(field.annotation) + _unit(name, field),
                _default(field),
                _bounds(field),
                field.description or "",
            )
            continue
        own = (inner.__doc__ or "").strip().partition("\n")[0]
        kind = {"": "section", ".<id>": "map", "[]": "list"}[suffix]
        yield Option(path, kind, _default(field), "", field.description or own)
        # The key of the map is the id, so it is no option of its own.
        yield from (
            option
            for option in _describe(inner, f"{path}{suffix}.")
            if not (suffix == ".<id>" and option.path == f"{path}{suffix}.id")
        )


def known_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Keys that may stand at ``path`` below ``model``; none when that is no section."""
    rest = list(path)
    while rest:
        field = model.model_fields.get(str(rest.pop(0)))
        inner, suffix = _inner(field.annotation) if field else (None, "")
        if inner is None:
            return []
        if suffix and rest:
            rest.pop(0)
        model = inner
    return sorted(model.model_fields)


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


def _strip(annotation: Any) -> Any:
    """Drop ``| None`` and ``Annotated``."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (arg for arg in get_args(annotation) if arg is not NoneType)
    return getattr(annotation, "__origin__", annotation) if _annotated(annotation) else annotation


def _annotated(annotation: Any) -> bool:
    return hasattr(annotation, "__metadata__")


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The model that a field holds, and how: directly, by id or in a list."""
    kind = _strip(annotation)
    origin, args = get_origin(kind), get_args(kind)
    suffix = ""
    if origin is dict:
        kind, suffix = args[1], ".<id>"
    elif origin in (tuple, list):
        kind, suffix = args[0], "[]"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind, suffix
    return None, ""


def _type_name(annotation: Any) -> str:
    kind = _strip(annotation)
    origin = get_origin(kind)
    if origin is Literal:
        return _NAMES[type(get_args(kind)[0])]
    if origin is dict:
        return "map"
    if origin in (tuple, list):
        item = _type_name(get_args(kind)[0])
        return f"list of {item}s" if item != "any" else "list"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def _unit(name: str, field: FieldInfo) -> str:
    """The unit that a number's name says, for example ``, seconds``."""
    if _strip(field.annotation) not in (int, float):
        return ""
    if name.startswith("usd_"):
        return ", US dollars"
    return next((f", {unit}" for end, unit in _UNITS.items() if name.endswith(end)), "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case BaseModel():
            return "{}"
        case Mapping() | tuple() | list():
            items = ", ".join(map(str, value))
            return f"{{{items}}}" if isinstance(value, Mapping) else f"[{items}]"
        case "":
            return '""'
        case float() | int():
            return _number(value)
    return str(value)


def _bounds(field: FieldInfo) -> str:
    kind = _strip(field.annotation)
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    limits: dict[str, Any] = {}
    for item in field.metadata:
        for name in ("ge", "gt", "le", "min_length", "max_length"):
            if getattr(item, name, None) is not None:
                limits[name] = getattr(item, name)
    if "le" in limits and ("ge" in limits or "gt" in limits):
        low = _number(limits["ge"]) if "ge" in limits else f"above {_number(limits['gt'])}"
        return f"{low} to {_number(limits['le'])}"
    if "max_length" in limits:
        return f"{limits.get('min_length', 0)} to {limits['max_length']} characters"
    return ""


def _number(value: float) -> str:
    return f"{value:.16g}"
