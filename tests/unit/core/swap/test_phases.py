"""The table of a swap: every cell moves or raises, and nothing gets out of an end."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotswap_ray.core.errors import IllegalTransition
from hotswap_ray.core.swap.phases import (
    SWITCHED,
    TERMINAL,
    TRANSITIONS,
    Event,
    Phase,
    Swap,
    advance,
    may,
    mermaid,
)

CELLS = [(phase, event) for phase in Phase for event in Event]
MUST_NOT_FAIL = {Phase.DRAINING, Phase.RETIRING, Phase.RELEASING, Phase.ROLLING_BACK}
BEFORE_THE_SWITCH = [
    Phase.REQUESTED,
    Phase.CHECKING,
    Phase.LOADING,
    Phase.VALIDATING,
    Phase.TRANSFERRING,
    Phase.CANARY,
]
OPEN = [phase for phase in Phase if phase not in TERMINAL]
DOCS = Path(__file__).parents[4] / "docs"


def a_swap(phase=Phase.REQUESTED, **changes):
    swap = Swap("s1", "summarise", "small", 1, "large", requested_at_s=100.0, updated_at_s=100.0)
    return replace(swap, phase=phase, **changes)


@pytest.mark.parametrize(("phase", "event"), CELLS)
def test_every_cell_moves_to_its_phase_or_raises_and_changes_nothing(phase, event):
    swap = a_swap(phase)
    before = swap.to_doc()

    if event in TRANSITIONS[phase]:
        assert advance(swap, event, 101.0).phase is TRANSITIONS[phase][event]
    else:
        with pytest.raises(IllegalTransition, match="possible"):
            advance(swap, event, 101.0)
    assert swap.to_doc() == before
    assert may(phase, event) is (event in TRANSITIONS[phase])


def test_the_table_has_every_phase_and_three_ends():
    assert set(TRANSITIONS) == set(Phase)
    assert {Phase.SUCCEEDED, Phase.FAILED, Phase.ROLLED_BACK} == TERMINAL


@pytest.mark.parametrize("phase", [phase for phase in OPEN if phase is not Phase.REQUESTED])
def test_every_open_phase_takes_both_outcomes_of_its_action(phase):
    assert may(phase, Event.DONE)
    assert may(phase, Event.FAILED)


@pytest.mark.parametrize("phase", sorted(MUST_NOT_FAIL))
def test_a_phase_that_must_not_fail_is_tried_again(phase):
    assert TRANSITIONS[phase][Event.FAILED] is phase


@pytest.mark.parametrize("phase", OPEN)
def test_every_phase_reaches_an_end_by_progress_and_by_trouble(phase):
    for first in TRANSITIONS[phase]:
        swap = advance(a_swap(phase), first, 101.0)
        for _ in range(len(Phase)):
            if swap.is_open:
                swap = advance(swap, Event.DONE, 102.0)
        assert swap.phase in TERMINAL


@pytest.mark.parametrize("phase", BEFORE_THE_SWITCH)
def test_an_abort_before_the_switch_ends_as_failed_and_never_serves(phase):
    swap = advance(a_swap(phase), Event.ABORT, 101.0)
    while swap.is_open:
        assert swap.phase not in SWITCHED
        swap = advance(swap, Event.DONE, 102.0)
    assert swap.phase is Phase.FAILED


@pytest.mark.parametrize("phase", [p for p in Phase if p not in BEFORE_THE_SWITCH])
def test_there_is_no_abort_from_the_switch_on(phase):
    assert not may(phase, Event.ABORT)


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_no_sequence_of_events_leaves_an_end(events):
    swap, ended = a_swap(), None
    for event in events:
        try:
            swap = advance(swap, event, 101.0)
        except IllegalTransition:
            continue
        assert ended is None, f"{event} led from {ended} to {swap.phase}"
        ended = None if swap.is_open else swap.phase


@given(st.lists(st.tuples(st.sampled_from(Event), st.floats(0, 1e10)), max_size=30))
def test_time_never_counts_backwards_whatever_the_clock_says(steps):
    swap = a_swap()
    for event, now_s in steps:
        if not may(swap.phase, event):
            continue
        after = advance(swap, event, now_s)
        assert after.updated_at_s >= swap.updated_at_s
        assert all(seconds >= 0 for seconds in after.seconds.values())
        swap = after


def test_time_per_phase_adds_up_when_a_phase_is_tried_again():
    swap = a_swap(Phase.DRAINING)
    swap = advance(swap, Event.FAILED, 103.0, "still busy")
    swap = advance(swap, Event.DONE, 104.5)
    assert swap.seconds == {Phase.DRAINING: 4.5}
    assert swap.error == "still busy"


def test_a_record_survives_the_store_and_a_newer_version():
    swap = a_swap(Phase.BAKING, facts={"commit_ms": 3.5}, seconds={"loading": 1.0})
    assert Swap.from_doc(swap.to_doc()) == swap
    assert Swap.from_doc({**swap.to_doc(), "of_tomorrow": 1}) == swap


@pytest.mark.parametrize("name", ["architecture.md", "rollouts.md"])
def test_the_documents_show_the_table(name):
    assert mermaid() in (DOCS / name).read_text(encoding="utf-8")
