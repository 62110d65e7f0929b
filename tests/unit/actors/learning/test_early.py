"""A score reaches its answer by its id: early, late, twice, and after a restart."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest

from hotswap_ray.actors.learning import early
from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.actors.learning.early import EarlyScores
from hotswap_ray.config.sections import ServerConfig
from hotswap_ray.core.errors import Conflict, NotFound, Overloaded, StoreError
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.store import Store
from hotswap_ray.store.pending import PendingScore
from hotswap_ray.web.openai_api import OpenAIApi
from tests.worlds.fakes import FakeClock
from tests.worlds.until import until

ID = "0e3b4f9c-2d7a-4c51-a1f6-f0c2b8d9e7a6"
PENDING = {"request_id": ID, "task": None, "model": None, "pending": True}


class Desk:
    """A learning actor, its successors, and answers by id."""

    def __init__(self, store, **options):
        self.store, self.clock = store, FakeClock()
        self.options = {"retry_s": 0.005, "feedback_wait_s": 0.01, **options}
        self.batches = 0
        self.restart()

    def restart(self):
        self.actor = LearningActor(self.store, (), self.clock, **self.options)

    async def score(self, score=0.25, key=None, request_id=ID, source=None):
        return await self.actor.feedback(request_id, score, key, "fine", source)

    async def ends(self, model="m", request_id=ID, decision="active", success=True):
        await self.record(self.outcome(model, request_id, decision, success))

    async def record(self, *outcomes):
        self.batches += 1
        await self.actor.record(outcomes, f"batch-{id(self)}-{self.batches}")

    def outcome(self, model="m", request_id=ID, decision="active", success=True):
        return Outcome(request_id, "t", model, 1, decision, self.clock(), success, 5.0)

    async def scores(self, model="m"):
        """Quality and number of scores, in memory and as a restart finds them."""
        now = await self._scores(self.actor, model)
        await until(lambda: self.actor._log.rows == 0)
        again = await self._scores(LearningActor(self.store, (), self.clock), model)
        assert again == now
        return now

    async def _scores(self, actor, model):
        rows = {row["model"]: row for row in await actor.learnings()}
        return (rows[model]["quality"], rows[model]["quality_count"]) if model in rows else None

    async def waiting(self):
        return (await self.actor.health())["early_feedback"]


class Breakable(Store):
    """A real store that can refuse to keep a score."""

    broken = False

    def keep_pending(self, score, before_s):
        if self.broken:
            raise StoreError("the store is read-only")
        super().keep_pending(score, before_s)


@pytest.fixture
def store(store_url):
    opened = Breakable(store_url)
    yield opened
    opened.close()


@pytest.fixture
def desk(store):
    return Desk(store)


async def test_a_score_of_an_answer_that_is_not_recorded_yet_counts_when_it_is(desk):
    assert await desk.score() == PENDING
    assert await desk.waiting() == 1
    await desk.ends()
    assert await desk.scores() == (0.25, 1)
    assert await desk.waiting() == 0


async def test_an_early_score_outlives_a_restart_and_is_then_forgotten(desk):
    await desk.score()
    desk.restart()
    assert await desk.waiting() == 1
    await desk.ends()
    assert await desk.scores() == (0.25, 1)
    desk.restart()
    assert await desk.waiting() == 0


async def test_of_two_outcomes_of_a_request_the_answer_gets_the_early_score(desk):
    await desk.score()
    await desk.record(
        desk.outcome("broken", success=False), desk.outcome("good", decision="fallback")
    )
    assert await desk.scores("good") == (0.25, 1)
    assert await desk.scores("broken") == (None, 0)


async def test_a_score_waits_for_the_fallbacks_answer_while_only_the_failure_is_known(desk):
    await desk.ends("broken", success=False)
    assert await desk.score() == PENDING
    await desk.ends("good", decision="fallback")
    assert await desk.scores("good") == (0.25, 1)
    assert await desk.scores("broken") == (None, 0)


async def test_a_stream_that_broke_off_after_its_first_byte_can_be_scored(desk):
    await desk.record(replace(desk.outcome(success=False), ttft_ms=3.0))
    assert (await desk.score())["model"] == "m"
    assert await desk.scores() == (0.25, 1)


async def test_the_same_early_score_again_changes_nothing_and_another_is_refused(desk):
    assert await desk.score(key="k") == PENDING
    assert await desk.score(key="k") == PENDING
    with pytest.raises(Conflict):
        await desk.score(0.75, key="other")
    await desk.ends()
    assert (await desk.score(key="k"))["model"] == "m"
    with pytest.raises(Conflict):
        await desk.score(0.75)
    assert await desk.scores() == (0.25, 1)


async def test_early_scores_without_a_key_are_the_same_if_they_say_the_same(desk):
    assert await desk.score() == await desk.score() == PENDING
    with pytest.raises(Conflict):
        await desk.score(0.75)


async def test_a_changed_score_is_refused_also_from_the_same_source(desk):
    await desk.ends()
    await desk.score(0.25, source="key-a")
    with pytest.raises(Conflict):
        await desk.score(0.75, source="key-a")
    assert await desk.scores() == (0.25, 1)


async def test_a_late_score_finds_its_answer_after_days_and_a_restart(desk):
    await desk.ends()
    desk.clock.now_s += 9 * 86_400
    desk.restart()
    assert (await desk.score())["model"] == "m"
    assert await desk.scores() == (0.25, 1)


async def test_a_shadowed_answers_score_is_not_its_copys(desk):
    await desk.score()
    copy = desk.outcome("copy", f"shadow-{ID}", "shadow")
    await desk.record(copy, desk.outcome("m", decision="shadowed"))
    assert await desk.scores() == (0.25, 1)
    assert await desk.scores("copy") == (None, 0)


async def test_an_outcome_that_comes_while_the_score_gives_up_is_not_missed(desk):
    """Whichever of the two is first, the score counts once."""
    for number in range(50):
        request_id = f"{ID}-{number}"
        scoring = asyncio.create_task(desk.score(1.0, request_id=request_id))
        await until(lambda: desk.actor._desk.waiting == 1)
        for _ in range(number):
            await asyncio.sleep(0.0005)
        await desk.ends(request_id=request_id)
        await scoring
    assert await desk.scores() == (1.0, 50)
    assert await desk.waiting() == 0


async def test_a_score_that_the_store_refused_is_kept_and_written_later(desk):
    desk.store.broken = True
    with pytest.raises(StoreError):
        await desk.score()
    desk.store.broken = False
    await until(lambda: desk.actor._log.rows == 0)
    desk.restart()
    await desk.ends()
    assert await desk.scores() == (0.25, 1)


async def test_an_id_that_cannot_come_is_not_found(desk):
    for request_id in ("never", "", "x" * 1000, ID[:-1] + "\n"):
        with pytest.raises(NotFound):
            await desk.score(request_id=request_id)


async def test_a_score_whose_answer_never_comes_is_forgotten_after_a_day(desk):
    await desk.score()
    desk.clock.now_s += 86_401
    await desk.score(request_id=ID[::-1])
    health = await desk.actor.health()
    assert (health["early_feedback"], health["expired_feedback"]) == (1, 1)
    desk.restart()
    assert await desk.waiting() == 1


def test_only_so_many_wait_in_all_and_of_one_source(monkeypatch):
    monkeypatch.setattr(early, "MOST", 5)
    monkeypatch.setattr(early, "MOST_OF_ONE", 3)
    scores = EarlyScores()

    def add(number, source):
        scores.add(PendingScore(f"r{number}", float(number), 0.5, "k", None, source))

    for number in range(4):
        with suppress(Overloaded):
            add(number, "a")
    assert len(scores) == 3
    add(4, None)
    add(5, "b")
    with pytest.raises(Overloaded):
        add(6, "b")
    scores.pop("r0")
    add(7, "a")


async def test_by_http_an_early_score_is_202_and_a_recorded_one_200(desk):
    transport = httpx.ASGITransport(OpenAIApi(ServerConfig(), None, desk.actor.feedback, None))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        body = {"request_id": ID, "score": 0.25}
        first = await http.post("/v1/feedback", json=body)
        assert (first.status_code, first.json()) == (202, {**body, "pending": True})
        await desk.ends()
        second = await http.post("/v1/feedback", json=body)
        assert (second.status_code, second.json()) == (200, body)
    assert await desk.scores() == (0.25, 1)
