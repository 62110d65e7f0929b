"""What each look at a step of a canary leads to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hotswap_ray.core.rollout.guardrails import GuardrailResult, failures, overall
from hotswap_ray.core.spec.rollout import CanarySpec, CanaryStep

Move = Literal["out", "on", "wait", "doubt"]


def next_move(
    plan: CanarySpec,
    step: CanaryStep,
    checks: Sequence[GuardrailResult],
    requests: int,
    spent_s: float,
    alarm: str = "",
) -> tuple[Move, str]:
    """What follows from a look at a step.

    Args:
        plan: The plan.
        step: The step that the candidate is in.
        checks: What the guardrails found since the canary began.
        requests: The candidate's in this step.
        spent_s: Time in this step.
        alarm: Why a comparison says nothing, see ``guardrails.both_fail``; empty if it does.

    Returns:
        ``out``: the candidate goes. ``on``: the next step. ``wait``: look again. ``doubt``: a
        person is asked, or the candidate given up, as ``plan.on_inconclusive`` has it. With it
        the reason, of ``out`` and ``doubt``.

    Example:
        >>> plan, step = CanarySpec(), CanaryStep(weight=0.1)
        >>> passed = [GuardrailResult("quality", "passed", "")]
        >>> next_move(plan, step, passed, requests=19, spent_s=60)
        ('wait', '')
        >>> next_move(plan, step, passed, requests=20, spent_s=60)
        ('on', '')
    """
    result = overall(checks)
    if result == "failed" and not plan.dry_run:
        return "out", "; ".join(failures(checks))
    if alarm:
        return "doubt", alarm
    passed = result == "passed" or (plan.dry_run and result != "error")
    if passed and requests >= step.min_requests and spent_s >= step.min_s:
        return "on", ""
    if spent_s <= plan.max_step_s:
        return "wait", ""
    text = "; ".join(f"{check.metric} {check.result}: {check.detail}" for check in checks)
    return "doubt", f"inconclusive after {spent_s:.0f} s with {requests} requests: {text}"
