"""What every step of the tour needs: the handle, the clients, and how to tell what happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live

from hotswap_ray.demo.traffic import SHOWN, Traffic, table


class Stage:
    """A running system under traffic, and somebody who watches it.

    Args:
        arbiter: A connected ``Arbiter``.
        traffic: The clients.
        console: Where to tell.

    Attributes:
        records: Swaps that the tour asked for, as they ended.
    """

    def __init__(self, arbiter: Any, traffic: Traffic, console: Console) -> None:
        self.arbiter = arbiter
        self.traffic = traffic
        self.records: list[dict[str, Any]] = []
        self._console = console

    def say(self, text: str, plain: bool = False) -> None:
        """A line for whoever watches; a ``plain`` one is neither wrapped nor coloured."""
        self._console.print(text, soft_wrap=plain, markup=not plain, highlight=not plain)

    def command(self, text: str, remark: str = "") -> None:
        """The command that does what comes next."""
        self.say(f"\n[bold]$ hotswap {text}[/]{remark and f'   ({remark})'}")

    def serving(self) -> dict[str, str]:
        """Model of each task now."""
        tasks = self.arbiter.status()["tasks"]
        return {task: tasks[task]["model"] for task in SHOWN}

    def wait(self, until: Callable[[], Any], what: str, limit_s: float = 90) -> None:
        """Return when ``until`` is true; fails when it never is."""
        deadline = time.monotonic() + limit_s
        while not until():
            _check_time(what, deadline)

    def watch(self, title: str, until: Callable[[], bool], limit_s: float = 60) -> None:
        """Show the live table until ``until`` holds; fails when it never does."""
        deadline = time.monotonic() + limit_s
        if not self._console.is_terminal:
            self.wait(until, title, limit_s)
            self._console.print(table(self.traffic, self.serving(), title))
            return
        with Live(console=self._console, refresh_per_second=4) as live:
            while not until():
                _check_time(title, deadline)
                live.update(table(self.traffic, self.serving(), title))
            live.update(table(self.traffic, self.serving(), title))

    def some_traffic(self, title: str, requests: int) -> None:
        """Let clients get ``requests`` more answers."""
        goal = self.traffic.answered + requests
        self.watch(title, lambda: self.traffic.answered >= goal)

    def ended(self, record: dict[str, Any]) -> dict[str, Any]:
        """Tell and keep how a swap ended."""
        self.records.append(record)
        facts, old, new = record["facts"], record["from_model"], record["to_model"]
        if record["phase"] == "rolled_back":
            old, new = new, old
        names = {
            "golden": "golden prompts {}",
            "commit_ms": "commit {:.0f} ms",
            "rollback_ms": "whole rollback {:.0f} ms",
        }
        details = [text.format(facts[name]) for name, text in names.items() if name in facts]
        if record["phase"] == "failed":
            details.append(record["error"])
        self.say(f"  {old} -> {new}: {record['phase']}; {', '.join([record['reason'], *details])}")
        return record


def _check_time(title: str, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{title!r} took too long")
    time.sleep(0.2)
