"""A world in which a rollout is under way, and what must hold of every table it published."""

from itertools import pairwise

from hotswap_ray.core.routing.table import RouteTable
from hotswap_ray.core.swap.phases import TRANSITIONS, Phase
from tests.worlds.controller import ControllerWorld, make_config
from tests.worlds.seen import seen

PLAN = {"settle_s": 0, "check_s": 0.05, "steps": [{"weight": 0.01}, {"weight": 0.99}]}


GOOD, FEW, BAD = (seen(200), seen(40)), (seen(5), seen(3)), (seen(900), seen(60, 20))


class Watched(ControllerWorld):
    """Keeps every swap and table that were saved together, in order."""

    def __init__(self, path, config=None, *args, **options):
        super().__init__(path, config or make_config(canary=PLAN), *args, **options)
        self.saved = []
        commit = self.store.commit_swap

        def commit_swap(swap, table):
            if not self.store.refuses:
                self.saved.append((swap, RouteTable.from_doc(table)))
            commit(swap, table)

        self.store.commit_swap = commit_swap

    def sees(self, both):
        """What the learnings observe from now on: active, candidate."""
        self.learning.rollouts = both if callable(both) else lambda since_s: both

    async def canary(self, step=1, **options):
        """Begin a rollout and wait until a step of it was looked at; its id."""
        swap_id = (await self.controller.swap("t", "b", **options))["swap_id"]
        await self.at_step(swap_id, step)
        return swap_id

    async def at_step(self, swap_id, step):
        await self.until(lambda: self.step_of(swap_id).get("step") == step)
        await self.until(lambda: "checks" in self.step_of(swap_id))

    def step_of(self, swap_id):
        swap = self.controller._runner._swaps.get(swap_id)
        return dict(swap.facts.get("canary", {})) if swap else {}

    async def paused(self, swap_id):
        """Why it is paused, as soon as it is."""
        swaps = self.controller._runner._swaps
        await self.until(lambda: swaps[swap_id].facts.get("paused"))
        return swaps[swap_id].facts["paused"]


def check_tables(world):
    """Shares never fall while a rollout lasts, and what was kept on its model stays there."""
    splits = [table.routes["t"].split for _, table in world.saved]
    assert splits
    for before, after in pairwise(splits):
        if before and after and before.salt == after.salt:
            assert after.weights >= before.weights
            assert after.kept.items() >= before.kept.items()


def check_end(world, record):
    """One legal way through the table, one model, nothing divided and nobody cut off."""
    phases = [Phase(row["phase"]) for row in world.store.load_journal(record["swap_id"])]
    for before, after in pairwise(phases):
        assert after in TRANSITIONS[before].values()
    route = world.table.routes["t"]
    assert route.split is None
    assert not route.held
    assert world.model_of("t") == ("b" if record["phase"] == "succeeded" else "a")
    assert world.fleet.harm == []
    check_tables(world)
