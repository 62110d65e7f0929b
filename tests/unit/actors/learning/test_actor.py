"""The learning actor: acknowledged means durable, a restart is exact, the store may fail."""

import asyncio

import orjson
import pytest

from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.core.errors import Conflict, InvalidRequest, NotFound, StoreError
from hotswap_ray.core.outcome import Criteria
from hotswap_ray.core.spec.price import Price
from hotswap_ray.core.spec.task import ModelSpec, Preferences, TaskSpec
from hotswap_ray.store import Store
from tests.worlds.until import until

CAPITALS = TaskSpec(id="capitals", model="small", quality_target=0.6)


class Clock:
    """Unix time that tests set."""

    def __init__(self):
        self.now_s = 1_700_000_500.0

    def __call__(self):
        return self.now_s


class Breakable(Store):
    """A real store whose writes can be made to fail."""

    broken = False

    def add_outcomes(self, batch, batch_id=None):
        if self.broken:
            raise StoreError("the store is read-only")
        return super().add_outcomes(batch, batch_id)


@pytest.fixture
def store(store_url):
    opened = Breakable(store_url)
    yield opened
    opened.close()


def make(store, tasks=(CAPITALS,), **options):
    options = {"retry_s": 0.005, "feedback_wait_s": 0.05, **options}
    return LearningActor(store, tasks, Clock(), **options)


def memory(actor):
    """Evidence in memory, rounded as far as batches may differ in the last bits."""
    return {key: rounded(cell) for key, cell in actor._learnings.cells.items()}


def rounded(cell):
    row = cell.row()
    row["latency_ms"] = cell.latency_ms.total
    row["quality_weight"] = cell.quality.weight
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}


async def test_a_recorded_batch_is_durable_and_counts_once_also_after_a_restart(store, outcome):
    actor = make(store)
    batch = [outcome(n) for n in range(10)]
    assert await actor.record(batch, "b1") == 10
    assert len(store.outcomes_frame()) == 10
    assert await actor.record(batch, "b1") == 0
    again = make(store)
    assert await again.record(batch, "b1") == 0
    assert (await again.learnings())[0]["count"] == 10


async def test_many_senders_share_commits_and_all_are_counted(store, outcome):
    actor = make(store)
    batches = [[outcome(100 * b + n) for n in range(20)] for b in range(30)]
    sent = [actor.record(batch, f"b{n}") for n, batch in enumerate(batches)]
    assert await asyncio.gather(*sent) == [20] * 30
    assert (await actor.summary())["outcomes"] == 600
    assert (await actor.health())["waiting_rows"] == 0


async def test_the_same_batch_sent_twice_at_once_counts_once(store, outcome):
    actor = make(store)
    batch = [outcome(n) for n in range(5)]
    await asyncio.gather(actor.record(batch, "b"), actor.record(batch, "b"))
    assert (await actor.summary())["outcomes"] == len(store.outcomes_frame()) == 5


async def test_impossible_outcomes_are_left_out_and_counted_the_rest_is_kept(store, outcome):
    actor = make(store)
    batch = [outcome(1), outcome(2, latency_ms=-1.0), outcome(3, quality=float("nan"))]
    assert await actor.record(batch, "b") == 1
    assert await actor.record([outcome(4, quality=7.0)], "c") == 0
    assert await actor.record([], "d") == 0
    assert (await actor.health())["invalid_outcomes"] == 3


@pytest.mark.parametrize("checkpoint_rows", [1, 35, 10_000])
async def test_a_restart_finds_exactly_what_was_in_memory(store, outcome, checkpoint_rows):
    actor = make(store, checkpoint_rows=checkpoint_rows)
    for step in range(10):
        batch = [
            outcome(
                20 * step + n,
                task=f"task{n % 3}",
                model=f"model{n % 2}",
                success=n % 5 > 0,
                latency_ms=10.0 * n + step,
                quality=n / 20 if n % 4 == 0 else None,
            )
            for n in range(20)
        ]
        await actor.record(batch, f"b{step}")
        await actor.feedback(f"r{20 * step + 3}", step / 10, f"key{step}")
    await actor.record_task_performance("task1", 80.0, 0.5, 0, True)
    assert memory(make(store)) == memory(actor)
    await actor.close()
    assert store.watermark() == store.last_outcome_id()
    assert memory(make(store)) == memory(actor)


async def test_outcomes_with_a_clock_that_goes_backwards_are_learned(store, outcome):
    actor = make(store)
    await actor.record([outcome(1, at_s=2_000.0), outcome(2, at_s=1_000.0)], "b1")
    actor._clock.now_s = 5.0
    known = await actor.learn_task_characteristics("capitals", complexity="low")
    actor._clock.now_s = 1.0
    later = await actor.learn_task_characteristics("capitals", complexity="high")
    assert later.updated_s == known.updated_s
    assert (await actor.learnings())[0]["last_at_s"] == 2_000.0


async def test_while_the_store_refuses_nothing_is_acknowledged_and_then_nothing_is_lost(
    store, outcome
):
    actor = make(store)
    await actor.record([outcome(0)], "b0")
    store.broken = True
    with pytest.raises(StoreError, match="read-only"):
        await actor.record([outcome(1)], "b1")
    with pytest.raises(StoreError):
        await actor.record([outcome(1)], "b1")
    with pytest.raises(StoreError):
        await actor.feedback("r1", 0.5, "key")
    health = await actor.health()
    assert not health["ok"]
    assert "read-only" in health["store_error"]
    assert len(store.outcomes_frame()) == 1
    store.broken = False
    assert await actor.feedback("r1", 0.5, "key") == {
        "request_id": "r1",
        "task": "capitals",
        "model": "small",
    }
    await until(lambda: actor._log.rows == 0)
    assert (await actor.health())["ok"]
    assert len(store.outcomes_frame()) == 2
    assert memory(make(store)) == memory(actor)
    assert (await actor.learnings())[0]["quality_count"] == 1


async def test_a_full_buffer_takes_nothing_in_and_says_so(store, outcome):
    actor = make(store, buffer_rows=10)
    store.broken = True
    with pytest.raises(StoreError):
        await actor.record([outcome(n) for n in range(8)], "b1")
    with pytest.raises(StoreError, match="8 outcomes wait"):
        await actor.record([outcome(n) for n in range(8, 16)], "b2")
    assert (await actor.health())["refused_rows"] == 8
    assert (await actor.summary())["outcomes"] == 8
    store.broken = False
    await until(lambda: actor._log.rows == 0)
    assert await actor.record([outcome(n) for n in range(8, 16)], "b2") == 8


async def test_a_checkpoint_that_failed_is_made_up_for(store, outcome):
    actor = make(store, checkpoint_rows=1)
    store.broken = True
    with pytest.raises(StoreError):
        await actor.record([outcome(1)], "b1")
    store.broken = False
    await until(lambda: actor._log.rows == 0)
    saved = {(doc["task"], doc["model"]): doc for doc in store.load_evidence()}
    assert saved["capitals", "small"]["count"] == 1


async def test_feedback_counts_once_for_the_model_that_answered(store, outcome):
    actor = make(store)
    await actor.record([outcome(1, model="broken", success=False), outcome(1, model="good")], "b")
    first, second = await asyncio.gather(
        actor.feedback("r1", 0.9, "key", "fine"), actor.feedback("r1", 0.9, "key")
    )
    assert first == second == {"request_id": "r1", "task": "capitals", "model": "good"}
    with pytest.raises(Conflict):
        await actor.feedback("r1", 0.2, "another key")
    rows = {row["model"]: row for row in await actor.learnings()}
    assert (rows["good"]["quality"], rows["good"]["quality_count"]) == (0.9, 1)
    assert rows["broken"]["quality"] is None


async def test_two_different_scores_at_once_give_one_conflict(store, outcome):
    actor = make(store)
    await actor.record([outcome(1)], "b")
    results = await asyncio.gather(
        actor.feedback("r1", 0.9, "a"), actor.feedback("r1", 0.1, "b"), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Conflict", "dict"]
    assert (await actor.learnings())[0]["quality_count"] == 1


async def test_feedback_that_comes_before_its_outcome_waits_for_it(store, outcome):
    actor = make(store, feedback_wait_s=5)
    early = asyncio.create_task(actor.feedback("r7", 0.3, "key"))
    await until(lambda: actor._desk.waiting == 1)
    await actor.record([outcome(7)], "b")
    assert (await early)["model"] == "small"
    assert (await actor.learnings())[0]["quality"] == 0.3
    assert memory(make(store)) == memory(actor)


async def test_feedback_for_an_unknown_request_ends_in_not_found(store):
    actor = make(store)
    with pytest.raises(NotFound, match="'never'"):
        await actor.feedback("never", 0.5, "key")
    assert (await actor.health())["waiting_feedback"] == 0


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
async def test_a_score_out_of_range_is_refused(store, score):
    with pytest.raises(InvalidRequest, match=r"in \[0, 1\]"):
        await make(store).feedback("r1", score, "key")


async def test_work_without_a_model_teaches_the_task_and_no_model(store):
    actor = make(store)
    for _ in range(3):
        await actor.record_task_performance("capitals", 120.0, 0.75, 1000, True)
    performance = await actor.task_performance("capitals")
    assert performance["seen"] == 3
    assert performance["quality"] == pytest.approx(0.75)
    assert [row["model"] for row in performance["models"]] == [None]
    with pytest.raises(InvalidRequest):
        await actor.record_task_performance("capitals", -1.0, None, 0, True)
    with pytest.raises(InvalidRequest, match="no task name"):
        await actor.record_task_performance("a task?", 1.0, None, 0, True)


async def test_stated_characteristics_survive_a_restart_and_a_late_checkpoint(store, outcome):
    actor = make(store, checkpoint_rows=1)
    await actor.learn_task_characteristics("capitals", Preferences(latency=3), "high")
    await actor.record([outcome(n) for n in range(30)], "b")
    again = make(store)
    filled = await again.enhance_criteria(Criteria("capitals"))
    assert filled.preferences.latency == 3
    assert filled.quality_threshold == 0.6
    assert (await again.task_performance("capitals"))["complexity"] == "high"
    with pytest.raises(InvalidRequest, match="low, medium or high"):
        await actor.learn_task_characteristics("capitals", complexity="extreme")
    with pytest.raises(NotFound, match="did you mean"):
        await actor.enhance_criteria(Criteria("capital"))


async def test_a_weight_of_energy_that_an_earlier_version_saved_counts_as_zero(store, caplog):
    await make(store).learn_task_characteristics("capitals", Preferences(latency=3), "high")
    (doc,) = store.load_knowledge().values()
    doc["preferences"]["energy"] = 2.0
    store.save_knowledge("capitals", doc)
    filled = await make(store).enhance_criteria(Criteria("capitals"))
    assert filled.preferences == Preferences(latency=3)
    assert "task capitals: its saved weight of energy counts as 0" in caplog.text


async def test_a_changed_configuration_is_taken_over(store):
    await make(store).close()
    actor = make(store, tasks=[CAPITALS.model_copy(update={"quality_target": 0.9})])
    assert (await actor.enhance_criteria(Criteria("capitals"))).quality_threshold == 0.9


async def test_prices_are_known_from_the_start_for_models_of_the_file_and_added_ones(store):
    added = ModelSpec(id="new", engine="simulated", usd_per_million_tokens_in=4)
    store.save_model(added.model_dump_json(), "new", "runtime")
    store.save_model(added.model_dump_json(), "small", "runtime")  # the file has it by now
    store.save_model('{"written": "by another version"}', "old", "runtime")
    actor = make(store, prices={"small": Price(1, 2)})
    assert actor._learnings.prices == {"small": Price(1, 2), "new": Price(4, 0)}
    await actor.take_prices({"small": Price(3, 3)})
    assert actor._learnings.prices == {"small": Price(3, 3)}


async def test_a_transfer_leaves_evidence_with_its_model(store, outcome):
    actor = make(store)
    await actor.record([outcome(n, quality=0.5) for n in range(50)], "b")
    record = await actor.transfer("capitals", "small", "large")
    assert 0 < record.prior_mass <= 12
    assert record.own_count == 0
    assert [row["model"] for row in await actor.learnings()] == ["small"]
    with pytest.raises(NotFound):
        await actor.transfer("unknown", "small", "large")


async def test_p99_is_told_for_a_stretch_of_time(store, outcome):
    actor = make(store)
    await actor.record([outcome(n, at_s=100.0 + n, latency_ms=5.0) for n in range(50)], "b")
    assert await actor.latency_p99(100.0, 120.0) == {"p99_ms": 5.0, "count": 20}
    assert await actor.latency_p99(0.0, 1.0) == {"p99_ms": None, "count": 0}


async def test_learnings_move_to_another_store_once_however_often_imported(
    store, outcome, tmp_path
):
    actor = make(store)
    await actor.record([outcome(n, quality=n / 40) for n in range(40)], "b")
    await actor.feedback("r1", 1.0, "key")
    await actor.learn_task_characteristics("capitals", complexity="high")
    lines = await actor.export_lines()
    assert {(d["kind"], d["schema"]) for d in map(orjson.loads, lines)} == {
        ("knowledge", 1),
        ("evidence", 1),
        ("outcome", 1),
    }
    other = make(Store(f"sqlite:///{tmp_path}/other.db"))
    await other.record([outcome(n) for n in range(100, 110)], "own")
    counts = await other.import_lines(lines)
    assert counts == {"knowledge": 1, "evidence": 1, "outcome": 40, "skipped": 0}
    once = memory(other)
    assert once["capitals", "small"]["count"] == 50
    again = await other.import_lines(lines)
    assert (again["evidence"], again["outcome"], again["skipped"]) == (0, 0, 42)
    assert memory(other) == once
    assert memory(make(other._store)) == once
    assert (await other.task_performance("capitals"))["complexity"] == "high"
    assert (await actor.import_lines(lines))["skipped"] == 42
    assert (await actor.learnings())[0]["count"] == 40
    # Feedback still finds an imported request.
    assert (await other.feedback("r2", 0.5, "late"))["model"] == "small"


async def test_what_was_wrong_with_the_last_form_is_seen_with_the_requests(store, outcome):
    actor = make(store)
    wrong = outcome(1, format_ok=False, wrong_form="not JSON: text before it")
    await actor.record([outcome(0), wrong, outcome(2, format_ok=True)], "b")
    seen = await actor.observed("capitals", ["small", "other"], 0.0)
    assert seen["small"].wrong_form == "not JSON: text before it"
    assert seen["other"].wrong_form == ""


async def test_outcomes_older_than_the_retention_go_but_their_evidence_stays(store, outcome):
    actor = make(store, retention_s=1000.0, checkpoint_rows=1)
    await actor.record([outcome(n, at_s=1_000.0) for n in range(5)], "old")
    await actor.record([outcome(9, at_s=1_700_000_400.0)], "new")
    assert len(store.outcomes_frame()) == 1
    assert (await make(store).learnings())[0]["count"] == 6
