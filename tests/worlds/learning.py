"""A learning actor, its successors, and traffic for it."""

from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.core.autoswap.decide import Settings
from hotswap_ray.core.autoswap.view import ModelFacts, TaskView
from hotswap_ray.core.outcome import Outcome
from hotswap_ray.core.spec.task import TaskSpec
from tests.worlds.fakes import FakeClock

TASKS = [TaskSpec(id="t", model="a"), TaskSpec(id="u", model="a")]
MODELS = {"a": ModelFacts(), "b": ModelFacts()}
CAREFREE = Settings(cooldown_s=0)


class LearningWorld:
    """A learning actor, its successors, and requests with numbers."""

    def __init__(self, store, **options):
        self.store = store
        self.clock = FakeClock()
        self.options = {"retry_s": 0.005, "feedback_wait_s": 0.05, **options}
        self.views = [TaskView("t", "a", ("b",), CAREFREE, explore=0.5)]
        self.number = 0
        self.restart()

    def restart(self):
        self.actor = LearningActor(self.store, TASKS, self.clock, **self.options)

    async def look(self, wait_s=0.0):
        return await self.actor.look(self.views, MODELS, frozenset(), wait_s)

    async def see(self, *qualities, model="a", decision="active", **more):
        """Answers with these qualities; the id of the last one."""
        batch = []
        for quality in qualities:
            self.number += 1
            more.setdefault("latency_ms", 10.0)
            values = {"success": True, "quality": quality, **more}
            batch.append(
                Outcome(f"r{self.number}", "t", model, 1, decision, self.clock(), **values)
            )
        await self.actor.record(batch, f"batch-{self.number}")
        return f"r{self.number}"

    async def pairs(self, count, worth=1.0, active_worth=0.0):
        """Prompts that both models answered."""
        for n in range(count):
            self.number += 1
            batch = [
                Outcome(
                    f"{start}q{self.number}",
                    "t",
                    model,
                    1,
                    word,
                    self.clock(),
                    True,
                    1.0,
                    quality=q,
                )
                for start, model, word, q in (
                    ("", "a", "shadowed", active_worth),
                    ("shadow-", "b", "shadow", worth),
                )
            ]
            await self.actor.record(batch, f"pair-{self.number}-{n}")

    async def comparisons(self, model="b"):
        (finding, *_) = (await self.look()).findings
        rows = {row["model"]: row for row in finding.inputs["models"]}
        return rows[model].get("comparisons", 0)

    async def quality(self, model="a"):
        rows = {(r["task"], r["model"]): r for r in await self.actor.learnings()}
        return rows["t", model]["quality"]


async def collapse(world):
    """Model a does well, then badly, until the alarm."""
    await world.look()
    await world.see(*[1.0] * 200)
    await world.see(*[1.0] * 40, model="b", decision="explore")
    await world.look()
    while not world.actor._alarm.is_set():
        await world.see(0.0)
