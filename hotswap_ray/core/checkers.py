"""Is this answer right? The mechanical judge of golden prompts.

An engine that is up can still answer rubbish: vLLM, woken without its weights, says ``!!!!``
and no error. So no check passes an answer that is empty or one character repeated, unless
that is what was asked for.
"""

from __future__ import annotations

import re
import unicodedata

from hotswap_ray.core.golden import Check

_NUMBER = re.compile(
    r"[-+\u2212]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_GARBAGE_RUN = 4
_EDGES = " .,;:!?\"'`*_()[]"


def score(check: Check, answer: str) -> bool:
    """Judge one answer.

    Args:
        check: What is expected. ``contains`` ignores case and runs of blanks; ``exact`` ignores
            these and punctuation at both ends; ``regex`` searches, case as written; ``numeric``
            takes the first number in the answer, within ``tolerance``.
        answer: The model's text.

    Returns:
        Whether the answer passes.

    Example:
        >>> score(Check(kind="contains", value="Paris"), "It is PARIS, of course.")
        True
        >>> score(Check(kind="exact", value="Le chat"), "  le  chat. ")
        True
        >>> score(Check(kind="regex", value=r"^[A-Z ]+$"), "HELLO")
        True
        >>> score(Check(kind="numeric", value="1200", tolerance=1), "about 1,200.5 km")
        True
        >>> score(Check(kind="non_empty"), "!!!!!!!!")
        False
    """
    match check.kind:
        case "regex":
            return not is_garbage(answer) and re.search(check.value, answer) is not None
        case "numeric":
            number = first_number(answer)
            return number is not None and abs(number - float(check.value)) <= check.tolerance
        case "exact":
            got, wanted = _plain(answer), _plain(check.value)
            return got == wanted or got.strip(_EDGES) == (wanted.strip(_EDGES) or wanted)
        case "contains":
            return not is_garbage(answer) and _plain(check.value) in _plain(answer)
        case _:
            return not is_garbage(answer)


def is_garbage(answer: str) -> bool:
    """Whether an answer says nothing: blank, or one character over and over.

    >>> [is_garbage(text) for text in ("", "  ", "!!!!", "! ! ! !", "aaaa", "7", "ha", "...")]
    [True, True, True, True, True, False, False, False]
    """
    characters = "".join(answer.split())
    return not characters or (len(characters) >= _GARBAGE_RUN and len(set(characters)) == 1)


def first_number(text: str) -> float | None:
    """The first number in a text; ``None`` when there is none.

    >>> first_number("7 + 5 = 12"), first_number("-3.5e2 m"), first_number("none")
    (7.0, -350.0, None)
    """
    found = _NUMBER.search(text)
    return float(found[0].replace(",", "").replace("\u2212", "-")) if found else None


def _plain(text: str) -> str:
    """Same letters, one case, single blanks, whatever the Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
