"""An engine, a policy and a check of somebody else's package work without a change of ours."""

import random

import pytest

from hotswap_ray import config
from hotswap_ray.core.answers import checkers
from hotswap_ray.core.policies.selection import Arm, Snapshot, find_policy, make_policy
from hotswap_ray.core.spec.golden import Check
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import load_engine_class
from hotswap_ray.testing import check_engine, check_policy

MODULE = '''
from hotswap_ray.core.policies.selection import best
from hotswap_ray.engines.simulated import SimulatedEngine, SimulatedOptions


class Options(SimulatedOptions):
    """What the engine's users may write, beside a simulated one's."""

    flavour: str = "plain"


class Engine(SimulatedEngine):
    """An engine of somebody else's."""

    Options = Options


class Policy:
    """Always the model of the highest belief."""

    def select(self, snapshot, rng):
        return best(snapshot.arms).model

    def update(self, arm, reward):
        pass


def is_short(request, answer):
    return len(answer) < 10
'''
ENTRY_POINTS = """
[hotswap_ray.engines]
their_engine = their_package:Engine
[hotswap_ray.policies]
their_policy = their_package:Policy
[hotswap_ray.checkers]
their_check = their_package:is_short
"""
CONFIG = """
models:
  m: {engine: their_engine, options: {flavour: sweet}}
tasks:
  t:
    model: m
    autoswap: {policy: their_policy}
    checks: [{kind: callable, value: their_check}]
"""


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """Their package, as pip leaves it behind."""
    (tmp_path / "their_package.py").write_text(MODULE)
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    find_policy.cache_clear()
    checkers.find_checker.cache_clear()


def test_a_configuration_may_name_all_three():
    read = config.loads(CONFIG, name="theirs.yaml")
    assert read.models["m"].options == {"flavour": "sweet"}


async def test_their_engine_keeps_the_contract():
    engine = load_engine_class("their_engine")
    await check_engine(engine(ModelSpec(id="m", engine="their_engine")))


def test_their_policy_keeps_the_contract():
    check_policy(lambda: make_policy("their_policy"))
    snapshot = Snapshot("t", (Arm("a", belief=0.2), Arm("b", belief=0.7)))
    assert make_policy("their_policy").select(snapshot, random.Random(1)) == "b"


def test_their_check_gives_answers_their_quality():
    check = Check(kind="callable", value="their_check")
    assert checkers.quality_of([check], "short", {}) == 1
    assert checkers.quality_of([check], "much too long", {}) == 0
