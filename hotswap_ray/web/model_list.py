"""What ``GET /v1/models`` says: OpenAI's fields, and what a client of many models wants to know."""

from __future__ import annotations

from typing import Any

from hotswap_ray.core.routing.table import AUTO, Route, RouteTable
from hotswap_ray.core.routing.target import Target


def model_rows(table: RouteTable, created: int) -> list[dict[str, Any]]:
    """One row for each name that a request may have as its ``model``.

    Args:
        table: The route table.
        created: Unix seconds; when a model was trained is not known, so it is when it was listed.

    Returns:
        ``auto``, each ``auto:<task>`` and each model. ``kind`` is task or model, ``state`` loaded
        or unloaded, ``model`` what serves a task now. The context is there once it is known.
    """
    routes = {f"{AUTO}:{task}": route for task, route in table.routes.items()}
    tasks = dict(routes)
    if table.default_task in table.routes:
        tasks = {AUTO: table.routes[table.default_task], **routes}
    rows = [_task(name, route, created) for name, route in tasks.items()]
    return rows + [_row(name, "model", target, created) for name, target in table.models.items()]


def _task(name: str, route: Route, created: int) -> dict[str, Any]:
    row = _row(name, "task", route.active or route.fallback, created)
    return {**row, "model": route.model}


def _row(name: str, kind: str, target: Target | None, created: int) -> dict[str, Any]:
    row = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "hotswap_ray",
        "kind": kind,
        "state": "unloaded" if target is None else "loaded",
    }
    if target is not None and target.context_tokens:
        row["context_length"] = row["max_model_len"] = target.context_tokens
    return row
