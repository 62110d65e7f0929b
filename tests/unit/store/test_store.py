"""The store keeps what it acknowledged, on both databases, and says why when it cannot."""

import random
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from hotswap_ray.core.errors import Conflict, NotFound, StoreError
from hotswap_ray.core.swap.phases import Event, Swap, advance
from hotswap_ray.store import Store
from hotswap_ray.store.schema import metadata


def swap(swap_id="s1", task="capitals", **changes):
    return Swap(swap_id, task, "small", 1, "large", requested_at_s=5.0, **changes)


def test_the_migrations_make_exactly_the_tables_that_the_code_knows(store):
    with store.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_many_that_open_one_new_store_at_once_all_get_a_whole_one(store_url):
    failures = []

    def open_it():
        try:
            Store(store_url).next_generation("small")
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failures == []
    assert Store(store_url).next_generation("small") == 7


def test_a_store_of_a_newer_version_is_refused(store_url):
    store = Store(store_url)
    with store.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(StoreError, match="newer hotswap"):
        Store(store_url)


def test_models_are_found_again_as_last_saved(store, store_url):
    store.save_model('{"id":"small"}', "small", "config")
    store.save_model('{"id":"large"}', "large", "runtime")
    store.save_model('{"id":"large","v":2}', "large", "runtime")
    assert Store(store_url).load_models() == [
        ("large", '{"id":"large","v":2}', "runtime"),
        ("small", '{"id":"small"}', "config"),
    ]


def test_an_older_route_table_never_replaces_a_newer_one(store):
    assert store.load_table() is None
    store.save_table({"version": 2, "routes": {}}, 2)
    store.save_table({"version": 2, "routes": {}}, 2)
    with pytest.raises(Conflict, match="version 1 would overwrite version 2"):
        store.save_table({"version": 1}, 1)
    with pytest.raises(Conflict):
        store.save_table({"version": 2, "routes": {"other": 1}}, 2)
    store.save_table({"version": 3}, 3)
    assert store.load_table() == {"version": 3}


def test_generation_numbers_rise_and_are_never_used_twice(store, store_url):
    assert [store.next_generation("m") for _ in range(3)] == [1, 2, 3]
    store.save_generation({"model": "m", "generation": 3})
    store.delete_generation("m-m-g3")
    assert store.load_generations() == []
    assert Store(store_url).next_generation("m") == 4
    assert store.next_generation("other") == 1


def test_a_swap_is_kept_whole_and_its_journal_has_each_phase_once(store):
    now = swap()
    store.save_swap(now.to_doc())
    store.save_swap(now.with_facts(cpus=2).to_doc())
    now = advance(now, Event.DONE, 6.0)
    store.save_swap(now.to_doc(), note="room was found")
    store.save_swap(advance(now, Event.FAILED, 7.0, "no room").to_doc())
    assert Swap.from_doc(store.load_swap("s1")).error == "no room"
    journal = [
        (row["seq"], row["phase"], row["at_s"], row["note"]) for row in store.load_journal("s1")
    ]
    assert journal == [
        (1, "requested", 5.0, ""),
        (2, "checking", 6.0, "room was found"),
        (3, "failed", 7.0, "no room"),
    ]
    assert store.load_swap("unknown") is None


def test_swaps_are_listed_newest_first_by_task_and_by_being_open(store):
    for number in range(4):
        task = "capitals" if number % 2 else "sums"
        store.save_swap(swap(f"s{number}", task).to_doc())
    store.save_swap({**swap("s3").to_doc(), "phase": "succeeded"})
    assert [doc["swap_id"] for doc in store.load_swaps()] == ["s3", "s2", "s1", "s0"]
    assert [doc["swap_id"] for doc in store.load_swaps(task="capitals", open_only=True)] == ["s1"]
    assert [doc["swap_id"] for doc in store.load_swaps(limit=1)] == ["s3"]


def test_swap_and_route_table_change_together_or_not_at_all(store):
    store.commit_swap(swap().to_doc(), {"version": 5})
    with pytest.raises(Conflict):
        store.commit_swap({**swap().to_doc(), "phase": "switching"}, {"version": 4})
    assert store.load_swap("s1")["phase"] == "requested"

    def half():
        with store.transaction():
            store.save_table({"version": 6}, 6)
            store.save_swap({"swap_id": "no phase"})

    with pytest.raises(KeyError):
        half()
    assert store.load_table() == {"version": 5}


def test_events_come_in_order_after_an_id(store):
    first = store.add_event("swap", {"phase": "loading"}, 1.0)
    second = store.add_event("model", {"id": "small"}, 2.0)
    assert [event["id"] for event in store.load_events()] == [first, second]
    assert store.load_events(after_id=first) == [
        {"id": second, "kind": "model", "at_s": 2.0, "doc": {"id": "small"}}
    ]


def test_outcomes_come_back_to_the_last_bit_and_a_batch_counts_once(store, outcome):
    batch = [
        outcome(1, latency_ms=0.1 + 0.2),
        outcome(2, ttft_ms=None, success=False, quality=0.25),
    ]
    assert store.add_outcomes(batch, "b1") == 2
    assert store.add_outcomes(batch, "b1") == 0
    assert store.add_outcomes(batch) == 0
    stored = [item for _, item in store.outcomes_after(0)]
    assert [o.latency_ms for o in stored] == [0.1 + 0.2, 102.0]
    assert (stored[1].ttft_ms, stored[1].success, stored[1].quality) == (None, False, 0.25)


def test_a_score_is_taken_once_and_belongs_to_the_model_that_answered(store, outcome):
    store.add_outcomes([outcome(1, model="broken", success=False), outcome(1, model="fallback")])
    assert store.set_quality("r1", 0.9, "key") == ("capitals", "fallback")
    assert store.set_quality("r1", 0.9, "key") == ("capitals", "fallback")
    with pytest.raises(Conflict, match="scored already"):
        store.set_quality("r1", 0.1, "other key")
    with pytest.raises(NotFound):
        store.set_quality("never sent", 0.5, "key")
    frame = store.outcomes_frame()
    assert list(frame["model"]) == ["broken", "fallback"]
    assert frame["quality"].isna().tolist() == [True, False]
    assert frame["quality"].iloc[1] == 0.9


def test_a_requests_outcomes_come_in_the_order_in_which_it_met_the_models(store, outcome):
    met = [outcome(1, model=model, at_s=at_s) for model, at_s in (("second", 5.0), ("first", 4.0))]
    store.add_outcomes(met)  # what a candidate refused is settled when another one has answered
    found = store.find_outcomes(met[0].request_id)
    assert [row["model"] for row in found] == ["first", "second"]


def test_the_frame_is_filtered_by_task_model_time_and_number(store, outcome):
    assert store.outcomes_frame().empty
    store.add_outcomes([outcome(n, task="sums" if n % 2 else "capitals") for n in range(10)])
    assert len(store.outcomes_frame(task="sums")) == 5
    assert store.outcomes_frame(task="no such task").empty
    assert len(store.outcomes_frame(since_s=1_700_000_008.0)) == 2
    newest = store.outcomes_frame(limit=3)
    assert list(newest["at_s"]) == [1_700_000_007.0, 1_700_000_008.0, 1_700_000_009.0]


def test_pruning_never_deletes_what_no_saved_evidence_holds(store, outcome):
    store.add_outcomes([outcome(n) for n in range(10)])
    store.set_quality("r1", 0.5, "key")
    assert store.prune(1_800_000_000.0) == 0
    store.save_evidence([], watermark=store.last_outcome_id())
    store.add_outcomes([outcome(20)])
    store.set_quality("r2", 0.5, "key")
    assert store.prune(1_700_000_005.0) == 4
    assert store.set_quality("r2", 0.5, "key") == ("capitals", "small")
    assert len(store.outcomes_frame()) == 7


def test_knowledge_and_evidence_are_separate_and_replaced_whole(store):
    store.save_knowledge("capitals", {"task": "capitals", "complexity": "low"})
    store.save_evidence([{"task": "capitals", "model": "small", "count": 1}], watermark=3)
    store.save_evidence([{"task": "capitals", "model": "small", "count": 2}])
    assert store.load_knowledge() == {"capitals": {"task": "capitals", "complexity": "low"}}
    assert store.load_evidence() == [{"task": "capitals", "model": "small", "count": 2}]
    assert store.watermark() == 3


def test_a_failed_transaction_leaves_no_trace_not_even_in_caches(store, outcome):
    def half():
        with store.transaction():
            store.add_outcomes([outcome(1, task="new task")])
            raise RuntimeError("the process had another idea")

    with pytest.raises(RuntimeError):
        half()
    assert store.add_outcomes([outcome(1, task="new task")]) == 1
    assert list(store.outcomes_frame()["task"]) == ["new task"]


def test_what_was_acknowledged_before_kill_9_is_there(store_url):
    code = (
        "import sys\n"
        "from hotswap_ray.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    doc = {'swap_id': f's{n}', 'task': 't', 'phase': 'loading'}\n"
        "    store.commit_swap(doc, {'version': n})\n"
        "    sys.stdout.write(f'{n}\\n'); sys.stdout.flush()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, store_url], stdout=subprocess.PIPE)
    acknowledged = [int(child.stdout.readline()) for _ in range(50)][-1]
    child.send_signal(signal.SIGKILL)
    acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
    child.wait()
    store = Store(store_url)
    table = store.load_table()["version"]
    assert table >= acknowledged
    assert len(store.load_swaps(limit=table + 10)) == table


def test_an_outcome_takes_at_most_160_bytes_on_sqlite_index_included(tmp_path, outcome):
    store = Store(f"sqlite:///{tmp_path}/size.db")
    seeded = random.Random(1)

    def used_bytes():
        with store.transaction() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            free = connection.exec_driver_sql("PRAGMA freelist_count").scalar()
            return (pages - free) * connection.exec_driver_sql("PRAGMA page_size").scalar()

    before = used_bytes()
    for start in range(0, 20_000, 100):
        batch = [
            outcome(
                number,
                request_id=f"request-{seeded.getrandbits(128):032x}",
                task=f"a-task-with-a-long-name-{number % 12}",
                model=f"a-model-with-a-long-name-{number % 7}",
                latency_ms=seeded.lognormvariate(5, 1),
                ttft_ms=seeded.lognormvariate(3, 1),
                tokens_in=seeded.randrange(100_000),
                tokens_out=seeded.randrange(100_000),
                memory_bytes=seeded.randrange(2**40),
                quality=seeded.random(),
            )
            for number in range(start, start + 100)
        ]
        store.add_outcomes(batch, f"batch-{start}")
    assert (used_bytes() - before) / 20_000 <= 160


def test_a_swap_event_takes_at_most_one_kilobyte(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/size.db")
    with store.transaction() as connection:
        before = connection.exec_driver_sql("PRAGMA page_count").scalar()
    facts = {
        "phase": "loading",
        "task": "t" * 60,
        "from": "m" * 60,
        "to": "n" * 60,
        "why": "x" * 200,
    }
    for number in range(500):
        doc = swap(f"{number:032x}", phase="loading", error="e" * 5000).to_doc()
        doc["error"] = ""
        store.save_swap(doc, note="n" * 5000)
        store.add_event("swap", facts, 1.0)
    with store.transaction() as connection:
        after = connection.exec_driver_sql("PRAGMA page_count").scalar()
    # Record, journal row and event of a swap together, so each of them is far below.
    assert (after - before) * 4096 / 500 <= 3 * 1024
    assert len(store.load_journal(f"{1:032x}")[0]["note"]) <= 300


def test_a_read_only_store_says_so_and_can_still_be_read(tmp_path):
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.save_table({"version": 1}, 1)
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = 1")
        connection.rollback()
    with pytest.raises(StoreError, match="read-only"):
        store.save_table({"version": 2}, 2)
    assert store.load_table() == {"version": 1}


def test_a_store_locked_by_another_process_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("hotswap_ray.store.database.BUSY_TIMEOUT_S", 0.05)
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.save_table({"version": 1}, 1)
    other = sqlite3.connect(f"{tmp_path}/store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked by another process"):
        store.save_table({"version": 2}, 2)
    assert store.load_table() == {"version": 1}
    other.execute("ROLLBACK")
    store.save_table({"version": 2}, 2)
    other.close()


def test_a_full_disk_says_so_and_loses_nothing_that_was_there(tmp_path, outcome):
    store = Store(f"sqlite:///{tmp_path}/store.db")
    store.add_outcomes([outcome(1)])
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 1}")
        connection.rollback()
    with pytest.raises(StoreError, match=r"disk of the store .* is full"):
        store.add_outcomes([outcome(n) for n in range(2, 2000)])
    assert len(store.outcomes_frame()) == 1


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("not a url", "not a database URL"),
        ("mysql://localhost/x", "use sqlite or postgresql"),
        ("sqlite:////proc/nobody/store.db", "refused|cannot be opened"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/x", "cannot be reached"),
    ],
)
def test_a_store_that_cannot_be_opened_says_why_without_its_password(url, sentence):
    with pytest.raises(StoreError, match=sentence) as caught:
        Store(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "store.db").write_bytes(b"certainly not a database" * 500)
    with pytest.raises(StoreError, match="not a database"):
        Store(f"sqlite:///{tmp_path}/store.db")
