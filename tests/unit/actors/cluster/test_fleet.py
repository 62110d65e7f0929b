"""Ray's own races are nobody's failure."""

import pytest

from hotswap_ray.actors.cluster.fleet import RACE, TRIES, _ask
from hotswap_ray.core.errors import EngineUnavailable


class Call:
    """Fails so many times, then answers."""

    def __init__(self, failures, error):
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"


async def test_a_race_of_serve_with_itself_is_tried_again():
    call = Call(TRIES - 1, ValueError(f"<module 'x'> is {RACE}"))
    assert await _ask(call) == "done"


@pytest.mark.parametrize(
    ("error", "calls"), [(ValueError(f"<module 'x'> is {RACE}"), TRIES), (ValueError("no"), 1)]
)
async def test_what_stays_or_is_no_race_is_an_engine_that_cannot_be_had(error, calls):
    call = Call(TRIES, error)
    with pytest.raises(EngineUnavailable, match="ValueError"):
        await _ask(call)
    assert call.calls == calls
