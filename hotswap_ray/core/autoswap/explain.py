"""A decision and its inputs as a sentence for a person, and what would change it."""

from __future__ import annotations

import math

from hotswap_ray.core.autoswap.decide import Decision
from hotswap_ray.core.outcome import Ending

SENTENCES = {
    "better": (
        "{task}: {model} replaces {active}, proven better by {difference:+.3f} on {samples} "
        "comparisons (E {e} of {bar} needed); expected gain {gain:.1f} against a cost of {cost:.1f}"
    ),
    "equivalent_cheaper": (
        "{task}: {model} replaces {active}, proven equal within the width on {samples} "
        "comparisons and cheaper"
    ),
    "collapsed": (
        "{task}: {model} takes over from {active}, whose results collapsed; this waits for no "
        "cooldown"
    ),
    "worse_than_before": (
        "{task}: back to {model}; {active}, promoted lately, is proven worse by {difference:.3f} "
        "on {samples} comparisons (E {e} of {bar} needed)"
    ),
    "off": "{task}: {active} stays; auto-swap is off",
    "unknown_active": "{task}: {active} serves but does not meet the task's limits any more",
    "no_candidate": "{task}: {active} stays; no other model meets the task's limits",
    "cooldown": (
        "{task}: {model} is proven better than {active}, but the last swap is too recent; "
        "{wait_s:.0f} s of the cooldown are left"
    ),
    "few_samples": (
        "{task}: undecided; {model} has {samples} comparisons with {active}, below the minimum"
    ),
    "does_not_pay": (
        "{task}: {active} stays; {model} is better by {difference:+.3f}, but its expected gain "
        "{gain:.1f} does not exceed the cost of the swap {cost:.1f}"
    ),
    "settled": "{task}: {active} stays; every candidate is proven no better, or equal and no "
    "cheaper",
    "testing": (
        "{task}: undecided between {active} and {model}; difference {difference:+.3f} on "
        "{samples} comparisons (E {e} of {bar} needed)"
    ),
    "collapsed_without_alternative": (
        "{task}: the results of {active} collapsed, and no other model is known to be better"
    ),
    "useless_everywhere": "{model} is unloaded: proven no gain at every task that may use it",
}

CHANGES = {
    "better": "the guard returns to {active} if that proves better while it is still warm",
    "equivalent_cheaper": "a proven difference, or a higher price of {model}",
    "collapsed": "{active} comes back once new evidence proves it better",
    "worse_than_before": "new evidence that proves {model} worse than another model",
    "off": "mode on or advise",
    "unknown_active": "a manual swap, or limits that {active} meets",
    "no_candidate": "loading a model that meets the limits, or wider limits",
    "cooldown": "{wait_s:.0f} s of waiting, or a shorter cooldown",
    "few_samples": "more comparisons: shadowed requests, a traffic share or a benchmark run",
    "does_not_pay": "more traffic, a longer residency, or {model} being loaded already",
    "settled": "a new candidate, a lower price, or a confirmed change of a model's results",
    "testing": "{more}",
    "collapsed_without_alternative": "evidence for another model, or a manual swap",
    "useless_everywhere": "a task whose limits it meets and where it is not yet compared",
}


def sentence(decision: Decision) -> str:
    """One sentence: what was decided, and the numbers it rests on.

    Example:
        >>> sentence(Decision("t", "stay", "off", "a"))
        't: a stays; auto-swap is off.'
        >>> sentence(Decision("t", "undecided", "testing", "a", "b", samples=30, difference=0.1,
        ...                 log_e=1.0, log_bar=3.0))
        't: undecided between a and b; difference +0.100 on 30 comparisons (E 2.7 of 20 needed).'
    """
    text = SENTENCES[decision.reason].format(**_values(decision))
    if not decision.applies and decision.action in ("promote", "roll_back", "unload"):
        text = f"advice, not done: {text}"
    if decision.success_alarm:
        text += f"; alarm: {decision.active} succeeds too rarely"
    return f"{text}."


REASONS = {
    "active": "it is the model of the task",
    "shadowed": "it is the model of the task; a candidate got a copy to be compared with",
    "explore": "a share of the traffic goes to candidates, and the policy picked this one",
    "canary": "a canary gives it a share of the conversations",
    "ab_test": "an A/B test gives it a share of the conversations",
    "pinned": "the client named it, or asked for what only it offers",
    "fallback": "the model chosen first did not answer",
    "escalated": "the model of the task cannot take this request, for its length or what it asks",
    "conversation": "it made the tool call that this request continues",
    "shadow": "this is a copy for a candidate, whose answer no client saw",
    "bench": "a benchmark asked it a golden prompt",
    "golden": "a swap asked it a golden prompt",
    "reported": "somebody reported work that no model of ours did",
    "refused": "it was refused here",
}

ENDS = {
    "ok": "answered",
    "failed": "failed",
    "timed_out": "took too long",
    "refusal": "refused what the active model then took",
    "client_error": "refused it, as everybody did who was asked",
    "cancelled": "was answering when the client left",
    "saturated": "had no room",
    "refused": "was asked",
}


def why_model(model: str, task: str, decision: str, end: str = Ending.OK, status: int = 0) -> str:
    """Why a model got a request, and what came of it, in one sentence.

    Args:
        model: Empty where no model was asked.
        task: Task it counts under.
        decision: Why this model.
        end: How the request ended there.
        status: HTTP status that it ended with; 0 for none.

    Example:
        >>> why_model("b", "t", "pinned")
        'b answered for t: the client named it, or asked for what only it offers.'
        >>> why_model("b", "t", "canary", "refusal", 400).split(":")[0]
        'b refused what the active model then took for t (400)'
    """
    numbered = f" ({status})" if status else ""
    what = ENDS.get(end, end)
    named = f"for {task}" if task else "for no task"
    return f"{model or 'nobody'} {what} {named}{numbered}: {REASONS.get(decision, decision)}."


def what_would_change(decision: Decision) -> str:
    """What would lead to another decision.

    Example:
        >>> what_would_change(Decision("t", "undecided", "testing", "a", "b", more=120))
        'about 120 more comparisons like those so far.'
    """
    return f"{CHANGES[decision.reason].format(**_values(decision))}."


def _values(decision: Decision) -> dict[str, object]:
    if decision.more is None:
        forecast = "a larger difference than seen so far; the comparisons favour no swap yet"
    else:
        forecast = f"about {decision.more} more comparisons like those so far"
    return {
        "task": decision.task,
        "active": decision.active,
        "model": decision.model,
        "difference": decision.difference,
        "samples": decision.samples,
        "e": _short(decision.log_e),
        "bar": _short(decision.log_bar),
        "gain": decision.gain,
        "cost": decision.cost,
        "wait_s": decision.wait_s,
        "more": forecast,
    }


def _short(log_value: float) -> str:
    """A number given by its logarithm, with two digits."""
    return f"{math.exp(log_value):.2g}" if log_value < 11 else f"10^{log_value / math.log(10):.0f}"
