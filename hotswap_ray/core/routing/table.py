"""The route table: which model generation serves a task, as one immutable snapshot.

A request reads one table once and keeps its target to the last byte. The table is made
by the controller alone; an ingress replica only replaces its reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hotswap_ray.core.errors import EngineUnavailable, ModelNotLoaded, NotFound
from hotswap_ray.core.names import did_you_mean
from hotswap_ray.core.outcome import RoutingDecision
from hotswap_ray.core.routing.split import ACTIVE, Share, Split
from hotswap_ray.core.routing.target import Target

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Trial:
    """Who else may answer requests of a task, so that there is evidence to decide on.

    Attributes:
        candidates: Loaded generations that meet the task's limits.
        explore: Share of requests that a candidate answers, in [0, 1].
        shadow: Share of requests that a candidate answers too, unseen, in [0, 1].
        by_policy: Every request goes where the policy says; ``explore`` is then not used.
    """

    candidates: tuple[Target, ...]
    explore: float = 0.0
    shadow: float = 0.0
    by_policy: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """What serves one task.

    Attributes:
        model: Model id that should serve.
        active: Its loaded generation; ``None`` while it is not loaded.
        fallback: Tried once when the active one fails before its first byte.
        held: Requests wait in the ingress while a swap frees the hardware.
        trial: Who else may answer; none while a swap is at work.
        split: How a rollout or an A/B test divides the conversations.
        proven: Served before, and is warm while the active one proves itself: what that one
            refuses is asked of it.
    """

    model: str
    active: Target | None = None
    fallback: Target | None = None
    held: bool = False
    trial: Trial | None = None
    split: Split | None = None
    proven: Target | None = None

    def uses(self, model: str) -> bool:
        """Whether a model is what serves the task, or one that the conversations are divided to."""
        shares = self.split.shares if self.split else ()
        return model in (self.model, *(s.target.model for s in shares if not s.out))


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Everything an ingress replica needs to serve, also while both actors are gone.

    Attributes:
        version: Rises by one with every commit.
        default_task: Task of a request that names none.
        routes: Route per task.
        models: Every known model; its loaded target or ``None``.
        draining: Applications whose in-flight count the controller waits for.
    """

    version: int = 0
    default_task: str = ""
    routes: Mapping[str, Route] = field(default_factory=dict)
    models: Mapping[str, Target | None] = field(default_factory=dict)
    draining: tuple[str, ...] = ()

    def to_doc(self) -> dict[str, Any]:
        """Plain values for the store."""
        doc = asdict(self)
        for route in doc["routes"].values():
            if route["split"] is not None:
                route["split"]["kept"] = list(route["split"]["kept"].items())  # keys are numbers
        return doc

    @classmethod
    def from_doc(cls, doc: Mapping[str, Any]) -> RouteTable:
        """Inverse of ``to_doc``."""

        def target(value: Mapping[str, Any] | None) -> Target | None:
            return None if value is None else Target.from_doc(value)

        def trial(value: Mapping[str, Any] | None) -> Trial | None:
            if value is None:
                return None
            return Trial(
                **{**value, "candidates": tuple(map(Target.from_doc, value["candidates"]))}
            )

        def split(value: Mapping[str, Any] | None) -> Split | None:
            if value is None:
                return None
            if "candidate" in value:  # a canary, as it was saved before there were A/B tests
                return Split(
                    value["salt"],
                    (Share(Target.from_doc(value["candidate"]), value["weight"]),),
                    (value["opening"],) if value["opening"] else (),
                    dict.fromkeys(value["kept"], ACTIVE),
                )
            shares = (
                Share(**{**s, "target": Target.from_doc(s["target"])}) for s in value["shares"]
            )
            kept = {mark: arm for mark, arm in value["kept"]}
            # A test's split that was saved without `decision` says canary until the test ends.
            decision = RoutingDecision(value.get("decision", RoutingDecision.CANARY))
            return Split(value["salt"], tuple(shares), tuple(value["opening"]), kept, decision)

        return cls(
            version=doc["version"],
            default_task=doc["default_task"],
            routes={
                task: Route(
                    r["model"],
                    target(r["active"]),
                    target(r["fallback"]),
                    r["held"],
                    trial(r.get("trial")),
                    split(r.get("split")),
                    target(r.get("proven")),
                )
                for task, r in doc["routes"].items()
            },
            models={model: target(value) for model, value in doc["models"].items()},
            draining=tuple(doc["draining"]),
        )

    def targets(self) -> dict[str, Target]:
        """Every target named anywhere, by application."""
        targets = [t for t in self.models.values() if t]
        for route in self.routes.values():
            targets += [t for t in (route.active, route.fallback) if t]
        return {t.app: t for t in targets}


def with_model(
    table: RouteTable, model: str, target: Target | None, fallbacks: Mapping[str, str | None]
) -> RouteTable:
    """The table after ``model`` was loaded (or, with ``None``, before it is taken away).

    Args:
        table: Current table.
        model: Model id.
        target: Its loaded generation, if any.
        fallbacks: Fallback model id per task.
    """
    models = {**table.models, model: target}
    routes = {}
    for task, route in table.routes.items():
        active = target if route.model == model else route.active
        name = fallbacks.get(task)
        fallback = models.get(name) if name and name != route.model else None
        trial = route.trial and _trial_without(route.trial, model)
        split = route.split and route.split.without(model, unless=target)
        proven = route.proven
        if proven is not None and proven.model == model and proven != target:
            proven = None
        routes[task] = replace(
            route, active=active, fallback=fallback, trial=trial, split=split, proven=proven
        )
    apps = {t.app for t in models.values() if t}
    return replace(
        table,
        models=models,
        routes=routes,
        draining=tuple(app for app in table.draining if app in apps),
    )


def _trial_without(trial: Trial, model: str) -> Trial:
    """The trial without a model, whose old generation must not get requests any more."""
    remaining = tuple(target for target in trial.candidates if target.model != model)
    return replace(trial, candidates=remaining)


def with_trials(table: RouteTable, trials: Mapping[str, Trial | None]) -> RouteTable:
    """The table with other trials for some tasks.

    Example:
        >>> a, b = Target("a", 1, 4), Target("b", 1, 4)
        >>> table = RouteTable(routes={"t": Route("a", a)}, models={"a": a, "b": b})
        >>> with_trials(table, {"t": Trial((b,), explore=0.1)}).routes["t"].trial.explore
        0.1
    """
    routes = {task: replace(table.routes[task], trial=trial) for task, trial in trials.items()}
    return replace(table, routes={**table.routes, **routes})


def with_route(
    table: RouteTable,
    task: str,
    target: Target,
    fallbacks: Mapping[str, str | None],
    proving: bool = False,
) -> RouteTable:
    """The table after ``task`` was switched to ``target``; the model it leaves drains.

    Args:
        table: Current table.
        task: Task id.
        target: Loaded generation that serves it from now on.
        fallbacks: Fallback model id per task.
        proving: Whether it has to prove itself still, so that the model it replaces is asked
            what it refuses.

    Example:
        >>> a, b = Target("a", 1, 4), Target("b", 1, 4)
        >>> table = RouteTable(routes={"t": Route("a", a)}, models={"a": a, "b": b})
        >>> table = with_route(table, "t", b, {})
        >>> table.routes["t"].model, table.draining
        ('b', ('m-a-g1',))
    """
    old = table.routes[task].active
    name = fallbacks.get(task)
    fallback = table.models.get(name) if name and name != target.model else None
    draining = {*table.draining, *([old.app] if old else [])} - {target.app}
    return replace(
        table,
        routes={
            **table.routes,
            task: Route(target.model, target, fallback, proven=old if proving else None),
        },
        draining=tuple(sorted(draining)),
    )


def with_split(table: RouteTable, task: str, split: Split | None) -> RouteTable:
    """The table with the conversations of ``task`` divided, or no longer; trials end meanwhile."""
    route = replace(table.routes[task], split=split, trial=None)
    return replace(table, routes={**table.routes, task: route})


def with_proof(table: RouteTable, task: str) -> RouteTable:
    """The table once the model of ``task`` has proved itself: nobody else is asked any more."""
    return replace(table, routes={**table.routes, task: replace(table.routes[task], proven=None)})


def with_hold(table: RouteTable, task: str, held: bool) -> RouteTable:
    """The table with the route of ``task`` held or released; its model drains meanwhile."""
    route = table.routes[task]
    draining = set(table.draining) | ({route.active.app} if held and route.active else set())
    return replace(
        table,
        routes={**table.routes, task: replace(route, held=held)},
        draining=tuple(sorted(draining)),
    )


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where one request goes, and why.

    Attributes:
        task: Task it counts under.
        target: Generation that serves it.
        decision: Why that one.
        fallback: Other generation to try once before the first byte.
        conversation: Key of its conversation, where somebody asked for it.
        left_out: What the client wished and no model at hand does; it is left out, and told.
    """

    task: str
    target: Target
    decision: RoutingDecision
    fallback: Target | None = None
    conversation: str | None = None
    left_out: tuple[str, ...] = ()


def choose_task(table: RouteTable, model: str, header: str | None, metadata: str | None) -> str:
    """The task of a request: header, then metadata, then ``auto:<task>``, then the default.

    Raises:
        NotFound: The named task does not exist; close names are given.
    """
    named = model.removeprefix("auto:") if model.startswith("auto:") else None
    task = header or metadata or named or table.default_task
    if task not in table.routes:
        raise NotFound(unknown("task", task, table.routes))
    return task


def choose(table: RouteTable, model: str, task: str) -> Assignment:
    """Where a request of ``task`` for ``model`` goes.

    Args:
        table: The snapshot.
        model: ``auto``, ``auto:<task>`` or a model id, which pins.
        task: From ``choose_task``.

    Raises:
        NotFound: The pinned model does not exist; close names are given.
        ModelNotLoaded: The pinned model exists but is not loaded, and will not be by itself.
        EngineUnavailable: The task's model is not loaded yet.
    """
    if model == AUTO or model.startswith("auto:"):
        route = table.routes[task]
        if route.active is not None:
            return Assignment(task, route.active, RoutingDecision.ACTIVE, route.fallback)
        if route.fallback is not None:
            return Assignment(task, route.fallback, RoutingDecision.FALLBACK)
        raise EngineUnavailable(f"model {route.model!r} of task {task!r} is not loaded yet", 2.0)
    if model not in table.models:
        raise NotFound(unknown("model", model, [*table.models, AUTO]))
    target = table.models[model]
    if target is None:
        raise ModelNotLoaded(
            f"model {model!r} is not loaded; load it with `hotswap models load {model}`"
        )
    return Assignment(task, target, RoutingDecision.PINNED)


def unknown(kind: str, name: str, options: Iterable[str]) -> str:
    """Sentence for a name that does not exist.

    Example:
        >>> unknown("model", "qwen7", ["qwen-7b", "llama"])
        "unknown model 'qwen7'; did you mean 'qwen-7b'?"
    """
    names = sorted(options)
    hint = did_you_mean(name, names) or f"; known: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}{hint}"
