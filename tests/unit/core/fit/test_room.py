"""How a candidate gets its room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotswap_ray.core.fit.room import Room, choose_strategy

GIB = 2**30
SMALL = Room(cpus=1, memory_bytes=GIB)
FREE = {"loaded": False, "old_can_sleep": False, "old_is_shared": False}


def choose(free, need=SMALL, old=SMALL, **options):
    return choose_strategy(free, need, old, **{**FREE, **options})


def test_a_loaded_candidate_needs_no_room():
    assert choose(Room(), loaded=True) == ("overlap", "the candidate is loaded already")


def test_both_side_by_side_where_both_fit():
    assert choose(Room(2, memory_bytes=2 * GIB)) == ("overlap", "both models fit side by side")


def test_sleep_where_only_memory_is_short_and_the_old_engine_can():
    strategy, why = choose(Room(1, memory_bytes=GIB // 2), old_can_sleep=True)
    assert strategy == "sleep"
    assert "memory: 1024 MiB needed, 512 MiB free" in why


def test_sleep_gives_no_cpus_or_gpus_back():
    strategy, why = choose(Room(0, memory_bytes=9 * GIB), old_can_sleep=True)
    assert strategy == "drain_first"
    assert "CPUs: 1 needed, 0 free" in why


@pytest.mark.parametrize("wanted", ["auto", "sleep", "drain_first"])
def test_a_model_that_also_serves_another_task_is_never_stopped(wanted):
    strategy, why = choose(Room(), old_can_sleep=True, old_is_shared=True, wanted=wanted)
    assert strategy is None
    assert "also serves another task" in why


@pytest.mark.parametrize(
    ("wanted", "options", "part"),
    [
        ("overlap", {}, "overlap was asked for but does not fit: CPUs"),
        ("sleep", {}, "cannot sleep"),
        ("sleep", {"old_can_sleep": True}, "even with the old model asleep: CPUs"),
        ("drain_first", {"old": Room()}, "even without the old model: CPUs"),
        ("auto", {"old": Room()}, "even without the old model: CPUs"),
    ],
)
def test_no_way_names_what_is_missing(wanted, options, part):
    strategy, why = choose(Room(), wanted=wanted, **options)
    assert strategy is None
    assert part in why


def test_an_operator_may_drain_first_although_both_fit():
    strategy, why = choose(Room(9, memory_bytes=9 * GIB), wanted="drain_first")
    assert strategy == "drain_first"
    assert why.startswith("asked for")


def test_gpus_and_accelerator_types_are_named():
    lacks = Room(cpus=8, gpus=1, accelerator_types=frozenset({"L4"})).lacks(
        Room(gpus=2, accelerator_types=frozenset({"H100"}))
    )
    assert lacks == ["GPUs: 2 needed, 1 free", "accelerator: H100 needed, L4 free"]


rooms = st.builds(
    Room, st.integers(0, 4), st.integers(0, 2), st.integers(0, 4).map(lambda n: n * GIB)
)


@given(rooms, rooms, rooms, st.booleans(), st.booleans())
def test_what_is_chosen_fits_and_there_is_always_a_reason(free, need, old, can_sleep, shared):
    strategy, why = choose(free, need, old, old_can_sleep=can_sleep, old_is_shared=shared)
    assert why
    if strategy == "overlap":
        assert not free.lacks(need)
    elif strategy == "sleep":
        assert can_sleep
        assert not shared
        assert not free.plus(Room(memory_bytes=old.memory_bytes)).lacks(need)
    elif strategy == "drain_first":
        assert not shared
        assert not free.plus(old).lacks(need)
    else:
        assert free.lacks(need)
