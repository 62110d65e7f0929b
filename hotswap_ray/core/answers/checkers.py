"""How good is this answer? The mechanical judge of golden prompts and of live answers.

An engine that is up can still answer rubbish: vLLM, woken without its weights, says ``!!!!``
and no error. So no check passes an answer that is empty or one character repeated, unless
that is what was asked for.

A regular expression may backtrack and a callable may loop for ever, so answers of live
traffic are judged in a process of their own: ``actors/judge/judge.py``.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

from hotswap_ray.core.answers.reasons import json_problem, schema_problem
from hotswap_ray.core.errors import CheckerFailed, NotFound
from hotswap_ray.core.names import did_you_mean
from hotswap_ray.core.spec.golden import GUARDS, Check

GROUP = "hotswap_ray.checkers"
"""Entry points that a check of kind ``callable`` may name."""

Checker = Callable[[Mapping[str, Any], str], float | bool | None]
"""A user's own check: request body and answer to a score in [0, 1]; None if it cannot tell."""

_NUMBER = re.compile(
    r"[-+\u2212]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_GARBAGE_RUN = 4
_EDGES = " .,;:!?\"'`*_()[]"
_FENCE = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)
_CANNOT = (
    r"i(?: can(?:'t|not| not)| could(?:n't| not)| won't| will not"
    r"| am (?:unable|not able)|'m (?:unable|not able))"
)
_REFUSAL = re.compile(
    # "Sorry, but I cannot ..." whatever follows
    r"(?:unfortunately|(?:i(?:'m| am) )?(?:(?:so|very|really) )?sorry|(?:i |my )?apolog\w+)"
    rf"[\s,.;:!-]*(?:but )?(?:as an ai|{_CANNOT})\b"
    # "I cannot help ..."; "I can't believe ..." is an answer
    rf"|{_CANNOT}(?: to| be able to)? (?:help|assist|comply|fulfill?|answer|provide|discuss"
    r"|engage|participate|support|create|generate|write|produce|do (?:that|this))\b"
    r"|as an ai\b|i(?:'m| am) (?:just |only )?an ai\b|i must (?:decline|refuse)\b"
)


def quality_of(
    checks: Sequence[Check], answer: str, request: Mapping[str, Any] | None = None
) -> float | None:
    """The quality of one answer, from all checks of its task.

    Args:
        checks: The task's checks.
        answer: The model's text.
        request: The request body, for callables.

    Returns:
        0 if a guard fails, else the weighted mean of the other checks that could tell, 1 if
        there are only guards; ``None`` if no check could tell. Missing is never zero.

    Raises:
        CheckerFailed: A check could not be made; the text names it.

    Example:
        >>> guard = Check(kind="length", max_chars=20)
        >>> right = Check(kind="contains", value="Paris", weight=3)
        >>> quality_of([guard, right, Check(kind="regex", value="^[A-Z]+$")], "Paris")
        0.75
        >>> quality_of([guard, right], "Paris, the capital of France")
        0.0
    """
    guards = [check for check in checks if check.kind in GUARDS]
    if any(score(check, answer, request) == 0 for check in guards):
        return 0.0
    graded = [check for check in checks if check.kind not in GUARDS]
    if not graded:
        return 1.0 if guards else None
    results = [(check.weight, score(check, answer, request)) for check in graded]
    scores = [(weight, value) for weight, value in results if value is not None]
    if not scores:
        return None
    return math.fsum(w * value for w, value in scores) / math.fsum(w for w, _ in scores)


def score(check: Check, answer: str, request: Mapping[str, Any] | None = None) -> float | None:
    """Judge one answer by one check.

    Args:
        check: What is expected. ``contains`` ignores case and runs of blanks; ``exact`` ignores
            these and punctuation at both ends; ``identical`` ignores nothing; ``regex``
            searches, case as written; ``numeric`` takes the first number in the answer, within
            ``tolerance``; ``json_schema`` takes the answer, or the first JSON value in it;
            ``length`` counts characters without blanks at both ends; ``refusal`` passes what
            does not begin like a well-known refusal, a heuristic.
        answer: The model's text.
        request: The request body, for callables.

    Returns:
        A score in [0, 1]; ``None`` only from a callable that cannot tell.

    Raises:
        CheckerFailed: The check could not be made; the text names it.

    Example:
        >>> score(Check(kind="contains", value="Paris"), "It is PARIS, of course.")
        1.0
        >>> score(Check(kind="exact", value="Le chat"), "  le  chat. ")
        1.0
        >>> score(Check(kind="regex", value=r"^[A-Z ]+$"), "HELLO")
        1.0
        >>> score(Check(kind="numeric", value="1200", tolerance=1), "about 1,200.5 km")
        1.0
        >>> score(Check(kind="json_schema", json_schema={"required": ["a"]}), 'So: {"a": 1}.')
        1.0
        >>> score(Check(kind="non_empty"), "!!!!!!!!")
        0.0
    """
    if check.kind == "callable":
        return _called(check, answer, request or {})
    return float(_passes(check, answer))


def label(check: Check) -> str:
    """A check in an error message, for example ``regex '^[A-Z]+$'``."""
    return f"{check.kind} {check.value[:60]!r}" if check.value else check.kind


@lru_cache(maxsize=256)
def find_checker(name: str) -> Checker:
    """The function of a check of kind ``callable``; its module is imported only now.

    Args:
        name: An entry point of the group ``hotswap_ray.checkers``, or ``module:function``.

    Raises:
        NotFound: There is no such function, or importing it fails; why.

    Example:
        >>> find_checker("hotswap_ray.core.answers.checkers:is_garbage").__name__
        'is_garbage'
    """
    plugins = {point.name: point for point in entry_points(group=GROUP)}
    module, _, attribute = name.partition(":")
    try:
        if name in plugins:
            checker = plugins[name].load()
        elif attribute:
            checker = getattr(import_module(module), attribute)
        else:
            installed = ", ".join(sorted(plugins)) or "none is installed"
            text = f"no checker {name!r}{did_you_mean(name, plugins)}; known: {installed}"
            raise NotFound(f"{text}; or write module:function")
    except (Exception, SystemExit) as error:  # a third party's module may raise anything
        if isinstance(error, NotFound):
            raise
        text = f"checker {name!r} cannot be imported: {type(error).__name__}: {error}"
        raise NotFound(text[:500]) from error
    if not callable(checker):
        raise NotFound(f"checker {name!r} is not callable")
    return cast("Checker", checker)


def is_garbage(answer: str) -> bool:
    """Whether an answer says nothing: blank, or one character over and over.

    >>> [is_garbage(text) for text in ("", "  ", "!!!!", "! ! ! !", "aaaa", "7", "ha", "...")]
    [True, True, True, True, True, False, False, False]
    """
    characters = "".join(answer.split())
    return not characters or (len(characters) >= _GARBAGE_RUN and len(set(characters)) == 1)


def is_refusal(answer: str) -> bool:
    """Whether an answer begins like a refusal: well-known English phrasings, no more.

    >>> [is_refusal(text) for text in ("I'm sorry, but I can't share it.", "I can't believe it!")]
    [True, False]
    """
    return _REFUSAL.match(_plain(answer).replace("\u2019", "'")) is not None


def first_number(text: str) -> float | None:
    """The first number in a text; ``None`` when there is none.

    >>> first_number("7 + 5 = 12"), first_number("-3.5e2 m"), first_number("none")
    (7.0, -350.0, None)
    """
    match = _NUMBER.search(text)
    return float(match[0].replace(",", "").replace("\u2212", "-")) if match else None


def json_values(text: str) -> Iterator[Any]:
    """The JSON value that a text is; else the first that is fenced or embedded in it.

    Args:
        text: An answer. Embedded values are objects and arrays, not loose numbers.

    Returns:
        An iterator over one value; empty if there is none.

    Example:
        >>> [list(json_values(text)) for text in ("7", "Sure: [1, 2]!", "no")]
        [[7], [[1, 2]], []]
    """
    for candidate in (text, *(fenced[1] for fenced in _FENCE.finditer(text))):
        try:
            yield json.loads(candidate, parse_constant=_no_constant)
            return
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    for opening in re.finditer(r"[\[{]", text):
        try:
            yield decoder.raw_decode(text, opening.start())[0]
            return
        except ValueError:
            continue
        except RecursionError:
            return


def _passes(check: Check, answer: str) -> bool:
    match check.kind:
        case "identical":
            return answer == check.value
        case "regex":
            return not is_garbage(answer) and re.search(check.value, answer) is not None
        case "numeric":
            number = first_number(answer)
            return number is not None and abs(number - float(check.value)) <= check.tolerance
        case "exact":
            given, value = _plain(answer), _plain(check.value)
            return given == value or given.strip(_EDGES) == (value.strip(_EDGES) or value)
        case "contains":
            return not is_garbage(answer) and _plain(check.value) in _plain(answer)
        case "json_schema":
            return any(
                not schema_problem(check.json_schema or {}, value) for value in json_values(answer)
            )
        case "length":
            return check.min_chars <= len(answer.strip()) <= check.max_chars
        case "refusal":
            return not is_refusal(answer)
        case _:
            return not is_garbage(answer)


def why_not(check: Check, answer: str) -> str:
    """Why an answer does not pass a check of its form; empty for other kinds.

    Args:
        check: A check that the answer did not pass.
        answer: The model's text.

    Raises:
        CheckerFailed: The schema cannot be checked.

    Example:
        >>> why_not(Check(kind="json_schema", json_schema={"required": ["a"]}), 'So: {"b": 1}')
        "property 'a' is missing"
        >>> why_not(Check(kind="length", max_chars=3), "Paris")
        '5 characters, not 0 to 3'
    """
    match check.kind:
        case "json_schema":
            for value in json_values(answer):
                return schema_problem(check.json_schema or {}, value)
            return json_problem(answer)
        case "length":
            return f"{len(answer.strip())} characters, not {check.min_chars} to {check.max_chars}"
        case "regex":
            return f"nothing like {check.value[:60]!r} in it"
        case _:
            return ""


def _called(check: Check, answer: str, request: Mapping[str, Any]) -> float | None:
    try:
        result = find_checker(check.value)(request, answer)
        if result is None:
            return None
        value = math.nan if isinstance(result, str | bytes) else float(result)
    except (Exception, SystemExit) as error:  # a third party's code may raise anything
        text = f"{label(check)}: {type(error).__name__}: {error}"
        raise CheckerFailed(text[:500]) from error
    if not 0 <= value <= 1:
        raise CheckerFailed(f"{label(check)}: gave {result!r:.60}, not a number from 0 to 1")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _plain(text: str) -> str:
    """Same letters, one case, single blanks, whatever the Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
