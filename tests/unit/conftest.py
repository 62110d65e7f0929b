"""A store for each test, on SQLite and, where a server is at hand, on PostgreSQL."""

import os
from itertools import count

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from hotswap_ray.actors.controller.ab_tests import run as ab_test_run
from hotswap_ray.actors.controller.ab_tests import state as ab_test_state
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store import Store
from tests.worlds.controller import quick_polls

POSTGRES = os.environ.get("HOTSWAP_TEST_POSTGRES_URL")
NEEDS_POSTGRES = [
    pytest.mark.postgres,
    pytest.mark.skipif(not POSTGRES, reason="HOTSWAP_TEST_POSTGRES_URL is not set"),
]
numbers = count()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=NEEDS_POSTGRES)])
def store_url(request, tmp_path):
    """URL of an empty database of its own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    name = f"hotswap_test_{os.getpid()}_{next(numbers)}"
    server = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@pytest.fixture
def store(store_url):
    """An open store."""
    opened = Store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def outcome():
    """Makes outcomes: `outcome(3, success=False)` is request r3."""

    def make(number, **changes):
        values = {
            "request_id": f"r{number}",
            "task": "capitals",
            "model": "small",
            "generation": 1,
            "decision": "active",
            "at_s": 1_700_000_000.0 + number,
            "success": True,
            "latency_ms": 100.0 + number % 50,
            "ttft_ms": 20.0,
            "tokens_in": 300,
            "tokens_out": 40,
            "memory_bytes": 430_000_000,
            "quality": None,
        }
        return Outcome(**{**values, **changes})

    return make


@pytest.fixture
def quick(monkeypatch):
    """Polls and retries in milliseconds."""
    quick_polls(monkeypatch)
    monkeypatch.setattr(ab_test_state, "RETRY_S", 0.01)
    monkeypatch.setattr(ab_test_run, "RETRY_S", 0.01)
