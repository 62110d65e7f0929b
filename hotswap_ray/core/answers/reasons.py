"""Why an answer has not the form that was asked for, for the people who have to mend it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema import ValidationError
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from hotswap_ray.core.answers.thinking import without_thinking
from hotswap_ray.core.errors import CheckerFailed

MOST = 160
"""Characters of a reason; answers are long, and a reason is one line of a report."""
_FENCED = re.compile(r"```[\w-]*\s*\n.*```", re.DOTALL)


def json_problem(text: str) -> str:
    """Why a text is not one JSON value, as a client reads it; empty if it is.

    Args:
        text: What the client got, thinking included.

    Example:
        >>> json_problem('{"a": 1}')
        ''
        >>> json_problem('<think>an object</think>{"a": 1}')
        'not JSON: thinking before it'
        >>> json_problem('Sure: {"a": 1}')
        "not JSON: text before it: 'Sure:'"
        >>> json_problem('{"a": 1'), json_problem("It is Paris.")
        ('not JSON: it ends too early', "not JSON: 'It is Paris.'")
    """
    try:
        json.loads(text)
    except RecursionError:
        return "not JSON: nested too deep"
    except ValueError as error:
        return f"not JSON: {_what_else(text.strip(), error)}"[:MOST]
    return ""


def _what_else(text: str, error: ValueError) -> str:
    if not text:
        return "the answer is empty"
    if without_thinking(text) != text:
        return "thinking before it"
    if _FENCED.search(text):
        return "it stands in a code block"
    opening = re.search(r"[\[{]", text)
    if opening is None:
        return f"{text[:60]!r}"
    try:
        _, end = json.JSONDecoder().raw_decode(text, opening.start())
    except (ValueError, RecursionError):
        if opening.start():
            return f"text before it: {text[: opening.start()].strip()[:60]!r}"
        at = error.pos if isinstance(error, json.JSONDecodeError) else 0
        is_cut = at >= len(text) or "Unterminated" in str(error)
        return "it ends too early" if is_cut else str(error)
    if before := text[: opening.start()].strip():
        return f"text before it: {before[:60]!r}"
    return f"text after it: {text[end:].strip()[:60]!r}"


def schema_problem(schema: Mapping[str, Any] | bool, value: Any) -> str:
    """Why a value does not meet a valid JSON schema; empty if it does.

    Args:
        schema: A schema that ``check_schema`` has accepted.
        value: A JSON value.

    Raises:
        CheckerFailed: A reference cannot be resolved, or the nesting is too deep.

    Example:
        >>> schema = {"required": ["a"], "properties": {"a": {"type": "integer"}}}
        >>> schema_problem(schema, {"a": 1}), schema_problem(schema, {})
        ('', "property 'a' is missing")
        >>> schema_problem(schema, {"a": "x"})
        "a: 'x' is not of type 'integer'"
    """
    # An empty registry: references are resolved inside the schema, never over the network.
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    try:
        error = next(validator.iter_errors(value), None)
        return "" if error is None else _told(error)
    except Unresolvable as error:
        raise CheckerFailed(f"json_schema: a reference leads nowhere: {error}") from error
    except RecursionError as error:
        raise CheckerFailed("json_schema: the schema or the answer is nested too deep") from error


def _told(error: ValidationError) -> str:
    where = ".".join(str(step) for step in error.absolute_path)
    text = error.message
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = [name for name in error.validator_value if name not in error.instance]
        text = f"property {missing[0]!r} is missing" if missing else text
    if len(text) > MOST:  # it quotes the value, which may be long
        text = f"{text[: MOST // 2]} ... {text[-MOST // 3 :]}"
    return f"{where}: {text}"[:MOST] if where else text
