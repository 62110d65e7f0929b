"""Does an answer have the form that was asked for, whatever it says?

Asked for by the client (``response_format``), or by those checks of the task that look at the
form: ``json_schema``, ``regex`` and ``length``. Where neither asks for one, there is no verdict.
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

    Where tools are offered the answer may be a call, which ``response_format`` does not describe.

    Example:
        >>> asks_for_json({"response_format": {"type": "json_object"}})
        True
        >>> asks_for_json({"response_format": {"type": "text"}})
        False
    """
    response_format = request.get("response_format")
    if not isinstance(response_format, Mapping) or request.get("tools"):
        return False
    return response_format.get("type") in ("json_object", "json_schema")


def has_form(checks: Sequence[Check], answer: str, request: Mapping[str, Any]) -> bool | None:
    """Whether an answer has every form that was asked for.

    Args:
        checks: The task's checks, all kinds.
        answer: The model's text.
        request: The request body.

    Returns:
        ``None`` where no form was asked for, or what the client sent is no JSON schema.

    Raises:
        CheckerFailed: The form could not be checked.

    Example:
        >>> has_form([Check(kind="regex", value="^[A-Z]+$")], "Paris", {})
        False
        >>> has_form([], '{"a": 1}', {"response_format": {"type": "json_object"}})
        True
        >>> has_form([Check(kind="contains", value="x")], "x", {}) is None
        True
    """
    results = [score(check, answer) == 1 for check in checks if check.kind in FORM_KINDS]
    if asks_for_json(request):
        is_met = _meets_response_format(request["response_format"], answer)
        results += [] if is_met is None else [is_met]
    return all(results) if results else None


def _meets_response_format(response_format: Mapping[str, Any], answer: str) -> bool | None:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    if response_format["type"] == "json_object":
        return isinstance(value, dict)
    definition = response_format.get("json_schema")
    schema = definition.get("schema") if isinstance(definition, Mapping) else None
    if schema is None:
        return True
    try:  # the client's schema, which no configuration has checked
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except (SchemaError, TypeError, AttributeError):
        return None
    except RecursionError as error:
        raise CheckerFailed("response_format: the schema is nested too deep") from error
    return meets(schema, value)
