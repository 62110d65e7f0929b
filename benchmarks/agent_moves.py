"""What must hold of agents' conversations: one model a loop, and no move without a commit.

A turn belongs to the model that its first request was given to. Two turns of a conversation may
belong to two models only if a commit that changes who answers was made between the two choices:
the task's model (a swap, a rollback), the beginning or end of a division (a canary's first step,
its end, a candidate that is out), of what a canary divides among, or of what is tried. A canary's
further step is none: who began stays.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from common import Load

from hotswap_ray.store import Store

POLL_S = 0.005
SETTLES_S = 0.25
"""Time that a commit may take to be in use everywhere; the product's own p99 is in the report."""


class Row(NamedTuple):
    """One request of an agent; times are of the monotonic clock, in seconds."""

    conversation: str
    turn: int
    step: int
    keyed: bool
    start: float
    first: float | None
    end: float
    kind: str
    model: str | None
    detail: str | None

    @property
    def task(self) -> str:
        """What it was asked for."""
        return self.conversation.partition("/")[0]


class Agents(Load):
    """The running agents; see ``agents.Spec`` for the arguments."""

    script = "agents.py"
    row = Row


class Commit(NamedTuple):
    """One commit of a route: saved after ``since``, in use everywhere by ``until``."""

    since: float
    until: float


class Commits:
    """Watches the route table in the store, in a thread, and keeps when a task's changed.

    Args:
        store: Where the controller saves it.
        tasks: Tasks to watch.

    Attributes:
        of: The commits of each task.
    """

    def __init__(self, store: Store, tasks: Iterable[str]) -> None:
        self.of: dict[str, list[Commit]] = {task: [] for task in tasks}
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Commits:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        known: dict[str, Any] = {}
        before = time.monotonic()
        while not self._stop.wait(POLL_S):
            asked = time.monotonic()
            table = self._store.load_table() or {"routes": {}}
            seen = time.monotonic()
            for task, commits in self.of.items():
                answers = who_answers(table["routes"].get(task))
                if task in known and known[task] != answers:
                    commits.append(Commit(before, seen + SETTLES_S))
                known[task] = answers
            before = asked


def who_answers(route: dict[str, Any] | None) -> Any:
    """What of a saved route decides who answers a conversation: not the width of its steps."""
    if route is None:
        return None
    split, trial = route.get("split"), route.get("trial")
    divided = split and [split["salt"], [(s["target"], s["out"]) for s in split["shares"]]]
    return [route["active"], divided, trial]


def judged(rows: list[Row], commits: dict[str, list[Commit]]) -> dict[str, Any]:
    """The figures of the agents, from what they saw and the commits of each task."""
    turns: defaultdict[str, defaultdict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        turns[row.conversation][row.turn].append(row)
    torn, moved, moves = [], [], 0
    for of in turns.values():
        whole = [of[turn] for turn in sorted(of) if all(row.kind == "ok" for row in of[turn])]
        torn += [loop for loop in whole if len({row.model for row in loop}) > 1]
        firsts = [min(loop, key=lambda row: row.step) for loop in whole]
        for one, other in pairwise(firsts):
            if one.model == other.model:
                continue
            moves += 1
            chosen = other.first or other.end
            if not any(c.since <= chosen and one.start <= c.until for c in commits[one.task]):
                moved.append((one, other))
    for loop in torn[:3]:
        print("torn:", *loop, sep="\n  ")
    for pair in moved[:5]:
        print("moved:", *pair, sep="\n  ")
    lost = [row for row in rows if row.kind != "ok"]
    for row in lost[:3]:
        print("lost:", row)
    return {
        "conversations": len(turns),
        "keyed_conversations": len({row.conversation for row in rows if row.keyed}),
        "turns": sum(map(len, turns.values())),
        "loops": sum(len(loop) > 1 for of in turns.values() for loop in of.values()),
        "agent_requests": len(rows),
        "agent_lost": len(lost),
        "torn_loops": len(torn),
        "moves": moves,
        "moved_without_commit": len({one.conversation for one, _ in moved}),
        "moves_without_commit": len(moved),
        "route_commits": {task: len(of) for task, of in commits.items()},
    }
