"""One load of a model: as it is saved, and as the ingress sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.routing.target import Target, app_name
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import load_engine_class


@dataclass(frozen=True, slots=True)
class Generation:
    """One load of a model.

    Attributes:
        model: Model id.
        generation: Load number, from 1, never used again.
        state: ``loading``, ``ready``, ``draining`` (out of the table but unharmed),
            ``asleep``, or ``stopping`` (its engine may have been told to end).
        memory_bytes: Measured when it became ready; 0 before.
        load_s: Seconds its engine took to load.
    """

    model: str
    generation: int
    state: str = "loading"
    memory_bytes: int = 0
    load_s: float = 0.0

    @property
    def app(self) -> str:
        """Its Serve application."""
        return app_name(self.model, self.generation)


def target_of(spec: ModelSpec, generation: Generation, ingress_replicas: int) -> Target:
    """What the route table says of a generation.

    Each ingress replica gets its share of what the model may have at work and queued.

    Example:
        >>> spec = ModelSpec(id="a", engine="simulated", max_queued_requests=6)
        >>> target_of(spec, Generation("a", 1), ingress_replicas=2).limit
        5
    """
    resources = spec.resources
    total = spec.max_ongoing_requests * resources.max_replicas + spec.max_queued_requests
    share = math.ceil(total / ingress_replicas)
    does, lacks = features_of(spec)
    number, context = generation.generation, context_of(spec)
    return Target(spec.id, number, share, context, does, lacks, spec.replica_affinity)


def context_of(spec: ModelSpec) -> int:
    """The longest prompt plus answer; 0 where nobody has said what the context of a server is.

    Example:
        >>> context_of(ModelSpec(id="a", engine="openai"))
        0
        >>> context_of(ModelSpec(id="a", engine="simulated"))
        2048
    """
    is_set_here = getattr(load_engine_class(spec.engine), "sets_context", True)
    is_default = spec.context_tokens == ModelSpec.model_fields["context_tokens"].default
    return 0 if is_default and not is_set_here else spec.context_tokens


def features_of(spec: ModelSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Features that a model surely has, and those it surely lacks: declared, and of its engine.

    Example:
        >>> spec = ModelSpec(id="a", engine="openai", capabilities=("chat", "function-calling"))
        >>> features_of(spec)
        (('chat', 'tools'), ())
    """
    declared = canonicals(spec.capabilities)
    of_engine = getattr(load_engine_class(spec.engine), "features", None)
    known = of_engine(spec) if of_engine else {}
    does = declared | {name for name, has_it in known.items() if has_it}
    lacks = {name for name, has_it in known.items() if not has_it} - declared
    return tuple(sorted(does)), tuple(sorted(lacks))


def can_sleep(spec: ModelSpec) -> bool:
    """Whether a model can give memory back without ending.

    Only with one replica: a handle reaches one, and half a model asleep answers wrongly.
    """
    return spec.resources.max_replicas == 1 and load_engine_class(spec.engine).can_sleep(spec)
