"""Schedules from Python; a part of Arbiter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hotswap_ray.client.link import ClusterLink


class Schedules:
    """Swaps at a time, or again and again."""

    _link: ClusterLink

    def schedules(self) -> list[dict[str, Any]]:
        """Every schedule.

        Returns:
            ``schedule``, ``source`` (``config`` or ``runtime``), ``enabled``, ``next`` and
            ``next_s`` (when it is due), ``running_due_s`` (of the run in progress), ``waits``
            (for what), ``spec`` and ``results``, the newest last.
        """
        rows: list[dict[str, Any]] = self._link.controller("schedules")
        return rows

    def set_schedule(self, schedule: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Add a schedule or replace one; it outlasts restarts and the configuration.

        Args:
            schedule: Schedule id, at most 45 characters.
            spec: As under ``schedules:`` in the YAML file.

        Returns:
            Its row, as ``schedules`` has it.

        Raises:
            NotFound: A task or model that does not exist.
            InvalidRequest: Each field that is wrong; or its time is over.
        """
        row: dict[str, Any] = self._link.controller("set_schedule", schedule, dict(spec))
        return row

    def delete_schedule(self, schedule: str) -> dict[str, Any]:
        """Forget a schedule; swaps that it began go on. Raises ``NotFound``."""
        answer: dict[str, Any] = self._link.controller_once("delete_schedule", schedule)
        return answer

    def schedule_dry_run(
        self,
        schedule: str | None = None,
        hours: float = 24,
        spec: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """What would happen when; changes nothing.

        Args:
            schedule: Only this one.
            hours: How far to look ahead, up to a year.
            spec: One that is not set.

        Returns:
            A row a run: ``schedule``, ``due``, ``action`` (``start`` or ``expired``),
            ``begins`` (its first swap), ``why`` it waits or expires, ``swaps`` and ``if``, the
            conditions that only then are known.
        """
        spec_doc = None if spec is None else dict(spec)
        rows: list[dict[str, Any]] = self._link.controller(
            "schedule_dry_run", schedule, hours, spec_doc
        )
        return rows
