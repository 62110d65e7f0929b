"""The controller's whole port to the learning actor."""

from __future__ import annotations

from typing import Protocol

from hotswap_ray.actors.controller.autoswap.loop import Decides
from hotswap_ray.actors.controller.bench.run import OutcomeSink
from hotswap_ray.actors.controller.schedules.swaps import Measures
from hotswap_ray.actors.controller.swaps.canary import Observes
from hotswap_ray.actors.controller.swaps.learnings import SwapLearningPort


class LearningPort(SwapLearningPort, OutcomeSink, Decides, Observes, Measures, Protocol):
    """All that the controller asks of the learning actor."""
