"""Does an answer have the form that was asked for, whatever it says?

Asked for by the client (``response_format``), or by those checks of the task that look at the
form: ``json_schema``, ``regex`` and ``length``. Who asked for neither gets no verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for

from hotswap_ray.core.answers.checkers import meets, score
from hotswap_ray.core.errors import CheckerFailed
from hotswap_ray.core.spec.golden import Check

FORM_KINDS = frozenset({"json_schema", "regex", "length"})
"""Kinds of checks that look at the form."""


def asks_for_json(request: Mapping[str, Any]) -> bool:
    """Whether a request asks for an answer in JSON.

    Where tools are offered the answer may be a call, which no ``response_format`` speaks of.

    Example:
        >>> asks_for_json({"response_format": {"type": "json_object"}})
        True
        >>> asks_for_json({"response_format": {"type": "text"}})
        False
    """
    wanted = request.get("response_format")
    if not isinstance(wanted, Mapping) or request.get("tools"):
        return False
    return wanted.get("type") in ("json_object", "json_schema")


def has_form(checks: Sequence[Check], answer: str, request: Mapping[str, Any]) -> bool | None:
    """Whether an answer has every form that was asked for.

    Args:
        checks: The task's checks, all kinds.
        answer: The model's text.
        request: The request body.

    Returns:
        ``None`` where no form was asked for, or the client's schema is none.

    Raises:
        CheckerFailed: It could not be told.

    Example:
        >>> has_form([Check(kind="regex", value="^[A-Z]+$")], "Paris", {})
        False
        >>> has_form([], '{"a": 1}', {"response_format": {"type": "json_object"}})
        True
        >>> has_form([Check(kind="contains", value="x")], "x", {}) is None
        True
    """
    told = [score(check, answer) == 1 for check in checks if check.kind in FORM_KINDS]
    if asks_for_json(request):
        is_json = _is_the_json(request["response_format"], answer)
        told += [] if is_json is None else [is_json]
    return all(told) if told else None


def _is_the_json(wanted: Mapping[str, Any], answer: str) -> bool | None:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    if wanted["type"] == "json_object":
        return isinstance(value, dict)
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if schema is None:
        return True
    try:  # a stranger's schema, which no configuration has checked
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except (SchemaError, TypeError, AttributeError):
        return None
    except RecursionError as error:
        raise CheckerFailed("response_format: the schema is nested too deep") from error
    return meets(schema, value)
