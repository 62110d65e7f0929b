"""The route table: pure functions from one table to the next, and the choice of a target."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotswap_ray.core.errors import EngineUnavailable, NotFound
from hotswap_ray.core.outcome import RoutingDecision
from hotswap_ray.core.routing.table import (
    Assignment,
    Route,
    RouteTable,
    choose,
    choose_task,
    with_hold,
    with_model,
    with_route,
)
from hotswap_ray.core.routing.target import Target

A, B, C = Target("a", 1, 4), Target("b", 2, 4), Target("c", 1, 4, 512)
FALLBACKS = {"t": "b", "u": None}
TABLE = RouteTable(3, "t", {"t": Route("a", A, B), "u": Route("b", B)}, {"a": A, "b": B, "c": None})


def test_a_table_survives_the_store():
    table = with_hold(with_model(TABLE, "c", C, FALLBACKS), "t", True)
    assert RouteTable.from_doc(orjson.loads(orjson.dumps(table.to_doc()))) == table


def test_a_choice_keeps_its_reason_and_its_fallback():
    assert choose(TABLE, "auto", "t") == Assignment("t", A, RoutingDecision.ACTIVE, B)
    assert choose(TABLE, "auto:t", "u") == Assignment("u", B, RoutingDecision.ACTIVE)
    assert choose(TABLE, "b", "t") == Assignment("t", B, RoutingDecision.PINNED)


def test_a_task_whose_model_is_not_loaded_is_served_by_its_fallback_or_refused():
    table = with_model(TABLE, "a", None, FALLBACKS)
    assert choose(table, "auto", "t") == Assignment("t", B, RoutingDecision.FALLBACK)
    table = with_model(table, "b", None, FALLBACKS)
    with pytest.raises(EngineUnavailable):
        choose(table, "auto", "t")


def test_a_model_whose_name_begins_with_auto_is_a_model():
    auto = Target("autobahn", 1, 4)
    table = with_model(TABLE, "autobahn", auto, FALLBACKS)
    assert choose(table, "autobahn", "t").target == auto


@pytest.mark.parametrize("name", ["", "auto2", "A", "a ", "ghost"])
def test_an_unknown_name_is_not_found(name):
    with pytest.raises(NotFound):
        choose(TABLE, name, "t")
    with pytest.raises(NotFound):
        choose_task(TABLE, f"auto:{name}x", None, None)


def test_a_model_that_is_its_own_fallback_has_none():
    table = with_route(TABLE, "t", B, FALLBACKS)
    assert table.routes["t"] == Route("b", B, None)


def test_a_fallback_that_loads_later_is_found_later():
    table = with_model(TABLE, "b", None, FALLBACKS)
    assert table.routes["t"].fallback is None
    assert with_model(table, "b", B, FALLBACKS).routes["t"].fallback == B


def test_a_hold_drains_the_model_and_a_new_route_releases_it():
    held = with_hold(TABLE, "t", True)
    assert (held.routes["t"].held, held.draining) == (True, ("m-a-g1",))
    moved = with_route(held, "t", B, FALLBACKS)
    assert not moved.routes["t"].held
    assert moved.draining == ("m-a-g1",)


def test_a_model_that_gets_a_task_back_drains_no_longer():
    away = with_route(TABLE, "t", B, FALLBACKS)
    back = with_route(away, "t", A, FALLBACKS)
    assert back.routes["t"] == TABLE.routes["t"]
    assert A.app not in back.draining


def test_a_generation_that_was_taken_away_is_named_nowhere():
    table = with_model(with_hold(TABLE, "t", True), "a", None, FALLBACKS)
    assert A.app not in table.targets()
    assert A.app not in table.draining


TARGETS = {"a": A, "b": B, "c": C}
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.sampled_from("abc")),
        st.tuples(st.just("unload"), st.sampled_from("abc")),
        st.tuples(st.just("route"), st.sampled_from("abc"), st.sampled_from("tu")),
        st.tuples(st.just("hold"), st.sampled_from("tu"), st.booleans()),
    )
)


@given(CHANGES)
def test_every_table_is_whole_whatever_led_to_it(changes):
    table = TABLE
    for kind, name, *rest in changes:
        match kind:
            case "load":
                table = with_model(table, name, TARGETS[name], FALLBACKS)
            case "unload":
                table = with_model(table, name, None, FALLBACKS)
            case "route" if table.models[name]:
                table = with_route(table, rest[0], TARGETS[name], FALLBACKS)
            case "hold":
                table = with_hold(table, name, rest[0])
    loaded = {target for target in table.models.values() if target}
    assert set(table.routes) == {"t", "u"}
    for task, route in table.routes.items():
        assert route.active == table.models[route.model]
        assert route.fallback is None or route.fallback in loaded
        assert route.fallback is None or route.fallback.model == FALLBACKS[task]
        assert route.fallback is None or route.fallback != route.active
    assert set(table.draining) <= {target.app for target in loaded}
    assert set(table.targets()) == {target.app for target in loaded}
