"""What the controller answers about decisions: the latest, their reasons, and the modes."""

from __future__ import annotations

import asyncio
from typing import Any

from hotswap_ray.actors.controller.autoswap.decisions import DecisionLog, decision_doc
from hotswap_ray.actors.controller.autoswap.loop import AutoswapLoop
from hotswap_ray.actors.controller.autoswap.views import TaskViews
from hotswap_ray.actors.controller.calls.starts import Starts
from hotswap_ray.actors.controller.models.publisher import Publisher
from hotswap_ray.core.autoswap.explain import why_model
from hotswap_ray.core.errors import InvalidRequest, NotFound
from hotswap_ray.core.spec.autoswap import AutoswapMode
from hotswap_ray.core.swap.phases import Swap
from hotswap_ray.store import Store

MODES: tuple[AutoswapMode, ...] = ("off", "advise", "on")
SETTING = "autoswap:"


class DecisionCalls(Starts):
    """Methods of ``SwapController`` about the auto-swap."""

    _store: Store
    _publisher: Publisher
    _decisions: DecisionLog
    _views: TaskViews
    _autoswap: AutoswapLoop
    _modes: dict[str, AutoswapMode]

    async def set_autoswap(self, task: str, mode: str) -> dict[str, Any]:
        """Set who decides about a task; it outlasts restarts and the configuration.

        Args:
            task: Task id.
            mode: ``off``, ``advise`` or ``on``; ``config`` for what the file says.

        Raises:
            NotFound: Unknown task.
            InvalidRequest: Unknown mode.
        """
        await self.start()
        self._publisher.route(task)
        if mode not in (*MODES, "config"):
            raise InvalidRequest(f"mode is {mode!r}; use off, advise, on or config")
        await asyncio.to_thread(self._store.save_setting, SETTING + task, {"mode": mode})
        self._take_mode(task, mode)
        self._autoswap.wake()
        return {"task": task, "mode": self._views.spec(task).mode}

    async def _load_modes(self) -> None:
        for name, doc in (await asyncio.to_thread(self._store.load_settings)).items():
            if name.startswith(SETTING):
                self._take_mode(name.removeprefix(SETTING), doc["mode"])

    def _take_mode(self, task: str, mode: str) -> None:
        self._modes.pop(task, None)
        for known_mode in MODES:
            if mode == known_mode:
                self._modes[task] = known_mode

    async def decisions(self, task: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """Decisions and non-decisions as they changed, the newest first."""
        return await asyncio.to_thread(self._store.load_decisions, task, limit)

    async def explain(self, subject: str) -> dict[str, Any]:
        """Why a task has its model, a swap happened, or a model answered a request.

        Args:
            subject: Task id, swap id or request id.

        Returns:
            ``kind``, ``subject``, ``sentence``, ``what_would_change`` (of a task), ``inputs``
            and ``decisions``, the newest first.

        Raises:
            NotFound: It is none of the three.
        """
        await self.start()
        if subject in self._publisher.table.routes:
            return await self._explain_task(subject)
        swap = await asyncio.to_thread(self._store.load_swap, subject)
        if swap is not None:
            return await self._explain_swap(Swap.from_doc(swap))
        outcomes = await asyncio.to_thread(self._store.find_outcomes, subject)
        if outcomes:
            return await self._explain_request(subject, outcomes)
        raise NotFound(
            f"{subject!r} is no task, no swap and no request that is known (an outcome is "
            "stored about a second after its answer)"
        )

    async def _explain_task(self, task: str) -> dict[str, Any]:
        decisions = await self.decisions(task, 5)
        model = self._publisher.table.routes[task].model
        finding = self._decisions.current.get(task)
        latest = decision_doc(finding) if finding is not None else next(iter(decisions), None)
        if latest is not None and latest["active"] != model:
            latest = None  # it is about an earlier model
        return {
            "kind": "task",
            "subject": task,
            "model": model,
            "mode": self._views.spec(task).mode,
            "sentence": latest["sentence"] if latest else f"{task}: {model} serves; no look yet.",
            "what_would_change": latest["what_would_change"] if latest else "",
            "inputs": latest["inputs"] if latest else {},
            "decisions": decisions,
        }

    async def _explain_swap(self, swap: Swap) -> dict[str, Any]:
        ids = [swap.swap_id, swap.facts.get("undo_id"), swap.facts.get("undoes")]
        decisions = [
            decision
            for swap_id in ids
            if swap_id
            for decision in await asyncio.to_thread(
                lambda i: self._store.load_decisions(swap_id=i), swap_id
            )
        ]
        request = f"{swap.requested_by} asked for {swap.to_model} in place of {swap.from_model}"
        why = decisions[0]["sentence"] if decisions else f"{swap.task}: {request}."
        state = f" It is {swap.phase}" + (f": {swap.error}." if swap.error else ".")
        return {
            "kind": "swap",
            "subject": swap.swap_id,
            "task": swap.task,
            "sentence": why + state,
            "inputs": dict(swap.facts),
            "decisions": decisions,
        }

    async def _explain_request(
        self, subject: str, outcomes: list[dict[str, Any]]
    ) -> dict[str, Any]:
        outcome = outcomes[-1]
        task, at_s = outcome["task"], outcome["at_s"]
        decisions = await asyncio.to_thread(
            lambda: self._store.load_decisions(task, 1, until_s=at_s)
        )
        context = f" At that time: {decisions[0]['sentence']}" if decisions else ""
        return {
            "kind": "request",
            "subject": subject,
            "task": task,
            "sentence": " Then ".join(map(_why, outcomes)) + context,
            "inputs": outcome,
            "outcomes": outcomes,
            "decisions": decisions,
        }


def _why(outcome: dict[str, Any]) -> str:
    ending = outcome["ending"] or ("ok" if outcome["success"] else "failed")
    names = (outcome["model"], outcome["task"], outcome["decision"])
    return why_model(*names, ending, outcome["status"])
