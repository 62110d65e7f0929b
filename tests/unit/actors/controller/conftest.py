"""No test of the controller waits for as long as a controller does."""

import pytest


@pytest.fixture(autouse=True)
def _quick(quick):
    pass
