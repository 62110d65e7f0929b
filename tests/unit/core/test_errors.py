"""Every error crosses process borders whole and is drawn where it stands."""

import pickle
import re

import pytest

from hotswap_ray.actors.cluster.connection import cause
from hotswap_ray.core import errors
from hotswap_ray.core.errors import EngineUnavailable, HotswapError, NotFound


def family(kind):
    """A class and all below it."""
    return [kind, *(one for child in kind.__subclasses__() for one in family(child))]


CLASSES = family(HotswapError)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("facts", [("what happened",), ("what happened", 2.5), ("", None)])
def test_an_error_is_the_same_on_the_other_side_of_a_process(kind, facts):
    error = kind(*facts)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.retry_after_s, str(copy)) == (
        error.message,
        error.retry_after_s,
        error.message,
    )


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_has_a_status_a_code_and_a_docstring(kind):
    assert 400 <= kind.http_status < 600
    assert re.fullmatch(r"[a-z_]+", kind.code)
    assert kind.__doc__


@pytest.mark.parametrize("kind", CLASSES)
def test_what_may_be_tried_again_says_so_by_its_status(kind):
    assert not kind.retryable or kind.http_status in (409, 429, 503)


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    rows = re.findall(r"[x+] (\w+)(?: +(\w+) +(\d{3})( +.*retry)?)?", errors.__doc__)
    assert [row[0] for row in rows] == [kind.__name__ for kind in CLASSES[1:]]
    for name, code, status, retry in rows:
        kind = getattr(errors, name)
        if code:  # a class that is only caught, never raised, has no facts of its own
            assert (code, int(status), bool(retry)) == (
                kind.code,
                kind.http_status,
                kind.retryable,
            )


def test_our_error_is_found_in_what_carried_it():
    class Carrier(Exception):
        def __init__(self, inner):
            super().__init__("a remote traceback")
            self.cause = inner

    inner = NotFound("no such model")
    assert cause(Carrier(inner)) is inner
    assert cause(inner) is inner


def test_another_error_becomes_engine_unavailable_in_one_short_sentence():
    found = cause(RuntimeError("x" * 10_000))
    assert type(found) is EngineUnavailable
    assert found.retry_after_s
    assert len(found.message) <= 500
    assert found.message.startswith("the model failed: RuntimeError: xxx")
