"""Prices reach the learnings when every mode is off too: a canary's guardrail needs them."""

from hotswap_ray.actors.learning.actor import LearningActor
from hotswap_ray.core.errors import EngineUnavailable
from hotswap_ray.core.spec.price import Price
from tests.worlds.controller import ControllerWorld, make_config, make_world

PRICED = {"engine": "simulated", "usd_per_million_tokens_out": 5}


async def test_a_model_added_while_every_mode_is_off_has_its_price_in_the_learnings(tmp_path):
    world = ControllerWorld(tmp_path)
    tasks = list(world.config.tasks.values())
    world.learning = LearningActor(world.store, tasks, world.clock)
    await world.start()

    def cost_usd():
        return world.learning._learnings.cost_usd("new", 0, 1_000_000)

    await world.controller.load("new", PRICED)
    await world.until(lambda: cost_usd() == 5)
    await world.controller.unload("new")
    await world.controller.load("new", {**PRICED, "usd_per_million_tokens_out": 7})
    await world.until(lambda: cost_usd() == 7)
    world.learning = LearningActor(world.store, tasks, world.clock)
    assert cost_usd() == 7  # also after a restart of the learnings alone


async def test_what_the_configuration_says_now_is_told_at_the_start(tmp_path):
    config = make_config(models={"b": {"usd_per_million_tokens_in": 3}})
    world = await make_world(tmp_path, config)
    await world.until(lambda: world.learning.prices.get("b") == Price(3, 0))


async def test_learnings_that_are_away_are_told_when_they_are_back(tmp_path):
    world = await make_world(tmp_path)
    world.learning.error = EngineUnavailable("away")
    await world.controller.load("new", PRICED)
    await world.until(lambda: world.controller._runner.last_error.endswith("away"))
    assert "new" not in world.learning.prices
    world.learning.error = None
    await world.until(lambda: world.learning.prices.get("new") == Price(0, 5))
