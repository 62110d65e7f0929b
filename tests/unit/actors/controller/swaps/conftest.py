"""A server that webhooks are sent to."""

import pytest

from tests.worlds.receiver import Receiver


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()
