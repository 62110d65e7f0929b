"""Decisions, running tests and settings in the store, and the way there from an older one."""

import threading

import pytest
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import column, insert, table

from hotswap_ray.core.errors import StoreError
from hotswap_ray.core.evidence.cell import Evidence
from hotswap_ray.core.evidence.knowledge import TaskKnowledge
from hotswap_ray.core.swap.phases import Swap
from hotswap_ray.store import Store, database
from hotswap_ray.store.outcomes import digest

PLAIN = (
    "generation", "at_s", "success", "latency_ms", "ttft_ms", "tokens_in", "tokens_out",
    "memory_bytes", "quality",
)  # fmt: skip
FIRST_OUTCOMES = table("outcomes", *map(column, ("id", "request", "task", "model", "decision")),
                       *map(column, PLAIN))  # fmt: skip


@pytest.fixture
def first_release(store_url, monkeypatch):
    """An open store as the first release made it."""

    def upgrade(scripts, connection):
        from alembic.config import Config

        def steps(revision, _context):
            return scripts._upgrade_revs("0001", revision)

        with EnvironmentContext(Config(), scripts, fn=steps) as environment:
            environment.configure(connection=connection)
            environment.run_migrations()

    with monkeypatch.context() as patch:
        patch.setattr(database, "_upgrade", upgrade)
        opened = Store(store_url)
    yield opened
    opened.close()


def revision_of(store):
    with store.transaction() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def add_as_then(store, batch, batch_id):
    """Add outcomes to a store whose table has not got today's columns yet."""
    with store.transaction() as connection:
        store._new_batch(connection, batch_id)
        first = store._take(connection, "outcomes", len(batch))
        number = store._number(
            connection, {n for o in batch for n in (o.task, o.model, o.decision)}
        )
        connection.execute(
            insert(FIRST_OUTCOMES),
            [
                {
                    **{name: getattr(o, name) for name in PLAIN},
                    "id": first + place,
                    "request": digest(o.request_id),
                    "task": number[o.task],
                    "model": number[o.model],
                    "decision": number[o.decision],
                }
                for place, o in enumerate(batch)
            ],
        )


def decide(store, task="t", at_s=1.0, swap_id=None, **doc):
    return store.add_decision(task, at_s, {"action": "stay", **doc}, swap_id)


def test_a_store_of_the_first_release_keeps_everything_and_gets_the_new_tables(
    first_release, store_url, outcome
):
    old = first_release
    assert revision_of(old) == "0001"
    add_as_then(old, [outcome(n) for n in range(20)], "b1")
    old.set_quality("r3", 0.25, "key", None)
    cell = Evidence("capitals", "small")
    cell.update(outcome(1))
    old.save_evidence([cell.to_doc()], 7)
    old.save_knowledge("capitals", TaskKnowledge("capitals").to_doc())
    swap = Swap("s1", "capitals", "small", 1, "large", requested_at_s=5.0)
    old.save_swap(swap.to_doc())
    old.save_table({"version": 3, "routes": {}}, 3)
    old.add_event("swap", {"swap_id": "s1"}, 5.0)
    assert old.next_generation("small") == 1
    origin = old.origin()
    old.close()

    new = Store(store_url)
    assert revision_of(new) == "0006"
    frame = new.outcomes_frame()
    assert list(frame["latency_ms"]) == [100.0 + n for n in range(20)]
    assert (frame["quality"][3], set(frame["format_ok"])) == (0.25, {None})
    assert len(new.recent_batches()) == 1
    assert (new.watermark(), new.last_outcome_id()) == (7, 21)
    new.add_outcomes([outcome(99, format_ok=True)])
    assert new.outcomes_frame()["format_ok"].iloc[-1] is True
    assert [doc["model"] for doc in new.load_evidence()] == ["small"]
    assert set(new.load_knowledge()) == {"capitals"}
    assert new.load_swap("s1") == swap.to_doc()
    assert [row["phase"] for row in new.load_journal("s1")] == ["requested"]
    assert new.load_table()["version"] == 3
    assert [row["doc"] for row in new.load_events()] == [{"swap_id": "s1"}]
    assert new.next_generation("small") == 2
    assert new.origin() == origin
    assert new.load_pending(0.0) == []
    assert new.load_decisions() == []
    assert new.load_experiments() == new.load_settings() == {}
    decide(new)
    assert len(new.load_decisions()) == 1
    new.close()


def test_many_that_open_an_older_store_at_once_all_get_the_new_one(first_release, store_url):
    first_release.close()
    failures = []

    def open_it():
        try:
            decide(Store(store_url))
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failures == []
    assert len(Store(store_url).load_decisions()) == 4


def test_decisions_are_found_newest_first_by_task_swap_and_time(store):
    ids = [
        decide(store, "t", 10.0),
        decide(store, "u", 20.0, "auto-1", action="promote"),
        decide(store, "t", 30.0, "auto-2", action="promote"),
        decide(store, "", 40.0, action="unload"),
        decide(store, "t", 5.0),  # the clock went back
    ]
    assert ids == sorted(ids)

    def found(*args, **kwargs):
        return [row["id"] for row in store.load_decisions(*args, **kwargs)]

    assert found() == ids[::-1]
    assert found(limit=2) == [ids[4], ids[3]]
    assert found("t") == [ids[4], ids[2], ids[0]]
    assert found("") == [ids[3]]
    assert found("nobody") == []
    assert found(swap_id="auto-1") == [ids[1]]
    assert found("t", swap_id="auto-1") == []
    assert found("t", 1, until_s=10.0) == [ids[4]]
    assert found(until_s=20.0) == [ids[4], ids[1], ids[0]]
    row = store.load_decisions(swap_id="auto-2")[0]
    assert row == {
        "id": ids[2],
        "task": "t",
        "at_s": 30.0,
        "swap_id": "auto-2",
        "action": "promote",
    }
    assert {task: doc["action"] for task, doc in store.latest_decisions().items()} == {
        "t": "stay",
        "u": "promote",
        "": "unload",
    }


def test_a_decision_and_its_event_are_kept_together_or_not_at_all(store):
    def half():
        with store.transaction():
            decide(store)
            store.add_event("decision", {}, 1.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert store.load_decisions() == store.load_events() == []


def test_numbers_that_json_does_not_have_are_kept_as_missing(store):
    decide(store, wait_s=float("inf"), difference=float("nan"), gain=1.5)
    (row,) = store.load_decisions()
    assert (row["wait_s"], row["difference"], row["gain"]) == (None, None, 1.5)


def test_old_decisions_are_pruned_and_an_id_is_never_given_twice(store):
    decide(store, at_s=1.0)
    last = decide(store, at_s=2.0)
    store.prune(10.0)
    assert store.load_decisions() == []
    assert store.latest_decisions() == {}
    kept = decide(store, at_s=20.0)
    assert kept == last + 1
    store.save_experiments([{"task": "t", "active": "a"}])
    store.save_setting("autoswap:t", {"mode": "on"})
    store.prune(15.0)
    assert [row["id"] for row in store.load_decisions()] == [kept]
    assert store.load_experiments().keys() == {"t"}  # what runs is no history
    assert store.load_settings().keys() == {"autoswap:t"}


def test_running_tests_and_settings_are_replaced_by_name(store, store_url):
    store.save_experiments([{"task": "t", "n": 1}, {"task": "u", "n": 2}])
    store.save_experiments([{"task": "t", "n": 3}])
    store.save_experiments([])
    store.save_setting("autoswap:t", {"mode": "on"})
    store.save_setting("autoswap:t", {"mode": "off"})
    again = Store(store_url)
    assert again.load_experiments() == {"t": {"task": "t", "n": 3}, "u": {"task": "u", "n": 2}}
    assert again.load_settings() == {"autoswap:t": {"mode": "off"}}
    again.close()
