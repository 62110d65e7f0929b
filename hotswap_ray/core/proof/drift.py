"""Has a model become worse? Page-Hinkley raises the alarm at once, ADWIN confirms it.

Page-Hinkley (Page 1954) sums how far each value falls below the mean so far; it is fast
and forgets nothing, so it may be wrong now and then. ADWIN (Bifet and Gavalda 2007)
compares all splits of an adaptive window; it is slower and hardly ever wrong. An alarm is
reason to move traffic away; a confirmation is reason to forget the old evidence.

Both are of ``river``. Values are scaled so that noise cannot pass for change: the chance
of a false alarm grows with ``exp(-2 delta threshold / variance)``, and a task whose answers
are right half the time has five times the variance of one at 95%. A value's deviation is
divided by how much its spread exceeds that of a coin of 0.95.
"""

from __future__ import annotations

import math
from typing import Literal

from river.drift import ADWIN, PageHinkley

Change = Literal["none", "alarm", "confirmed"]
SPREAD = math.sqrt(0.95 * 0.05)
"""Spread at which values are taken as they are."""
WARM_UP = 30
"""Values before an alarm is possible."""


class Drift:
    """Watches the success or quality of one (task, model); about 3 us a value.

    Args:
        delta: Fall that is tolerated for ever, in units of the value.
        threshold: Sum of falls that raises the alarm.
        confirm_delta: ADWIN's probability of a false confirmation.

    Attributes:
        recent: Mean of about the last 20 values: what the model is worth now.

    Example:
        >>> drift = Drift()
        >>> changes = [drift.update(value) for value in [1.0] * 200 + [0.0] * 40]
        >>> changes.index("alarm") - 200 < 30, drift.recent < 0.3
        (True, True)
    """

    __slots__ = ("_adwin", "_hinkley", "_mean", "_squares", "_weight", "alarmed", "recent")

    def __init__(
        self, delta: float = 0.02, threshold: float = 15.0, confirm_delta: float = 0.002
    ) -> None:
        self._hinkley = PageHinkley(
            min_instances=WARM_UP, delta=delta, threshold=threshold, mode="down"
        )
        self._adwin = ADWIN(delta=confirm_delta)
        self._weight = self._mean = self._squares = 0.0
        self.alarmed = False
        self.recent = math.nan

    def update(self, value: float) -> Change:
        """Take in one value in [0, 1].

        Returns:
            ``alarm`` once, when it is raised; ``confirmed`` when ADWIN agrees that it fell.
        """
        scaled = self._scaled(value)
        has_recent = not math.isnan(self.recent)
        self.recent = self.recent + 0.05 * (value - self.recent) if has_recent else value
        before = self._adwin.estimation
        self._hinkley.update(scaled)
        self._adwin.update(value)
        fell = bool(self._adwin.drift_detected) and self._adwin.estimation < before
        if fell:
            self.alarmed = True
            return "confirmed"
        if self._hinkley.drift_detected and not self.alarmed:
            self.alarmed = True
            return "alarm"
        return "none"

    def _scaled(self, value: float) -> float:
        """The value with its deviation cut to that of a quiet stream."""
        spread = math.sqrt(self._squares / self._weight) if self._weight >= WARM_UP else 0.5
        mean = self._mean if self._weight else value
        self._weight += 1
        change = value - self._mean
        self._mean += change / self._weight
        self._squares += change * (value - self._mean)
        return mean + (value - mean) * min(1.0, SPREAD / max(spread, 1e-9))
