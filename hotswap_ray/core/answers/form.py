"""Does an answer have the form that was asked for, whatever it says?

Asked for by the client (``response_format``), or by those checks of the task that look at the
form: ``json_schema``, ``regex`` and ``length``. Where neither asks for one, there is no verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for

from hotswap_ray.core.answers.checkers import label, score, why_not
from hotswap_ray.core.answers.reasons import json_problem, schema_problem
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
    return form_of(checks, answer, request).ok


@dataclass(frozen=True, slots=True)
class Form:
    """Whether an answer has every form that was asked for.

    Attributes:
        ok: ``None`` where no form was asked for, or what the client sent is no JSON schema.
        why: What is wrong with it, if anything is.
    """

    ok: bool | None
    why: str = ""


def form_of(
    checks: Sequence[Check], answer: str, request: Mapping[str, Any], whole: str | None = None
) -> Form:
    """Whether an answer has every form that was asked for, and what is wrong if it has not.

    Args:
        checks: The task's checks, all kinds.
        answer: The model's text without its thinking, which checks are about.
        request: The request body.
        whole: The text as the client got it, which has to be the JSON that the client asked for:
            its parser meets the thinking too. ``None``: as ``answer``.

    Raises:
        CheckerFailed: The form could not be checked.

    Example:
        >>> form_of([], "42", {"response_format": {"type": "json_object"}})
        Form(ok=False, why='JSON, but no object')
    """
    formal = [check for check in checks if check.kind in FORM_KINDS]
    failed = [check for check in formal if score(check, answer) != 1]
    problems = [why_not(check, answer) or label(check) for check in failed[:1]]
    is_asked = bool(formal)
    if asks_for_json(request):
        problem = _format_problem(request["response_format"], answer if whole is None else whole)
        is_asked |= problem is not None
        problems += [problem] if problem else []
    if problems:
        return Form(False, problems[-1])
    return Form(True if is_asked else None)


def _format_problem(response_format: Mapping[str, Any], answer: str) -> str | None:
    """What is wrong; empty if nothing is, ``None`` if what the client sent is no schema."""
    if problem := json_problem(answer):
        return problem
    value = json.loads(answer)
    if response_format["type"] == "json_object":
        return "" if isinstance(value, dict) else "JSON, but no object"
    definition = response_format.get("json_schema")
    schema = definition.get("schema") if isinstance(definition, Mapping) else None
    if schema is None:
        return ""
    try:  # the client's schema, which no configuration has checked
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except (SchemaError, TypeError, AttributeError):
        return None
    except RecursionError as error:
        raise CheckerFailed("response_format: the schema is nested too deep") from error
    return schema_problem(schema, value)
