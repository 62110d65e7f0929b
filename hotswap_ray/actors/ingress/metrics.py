"""Ray metrics of requests, made from batches so that a request itself pays nothing."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable

from ray.util.metrics import Counter, Histogram

from hotswap_ray.actors.cluster.judge_watchdog import JudgeWatchdog
from hotswap_ray.actors.ingress.router import Router
from hotswap_ray.core.outcome import Outcome

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]
TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]


class RequestMetrics:
    """``hotswap_*`` metrics of one ingress replica; Ray adds the prefix ``ray_``.

    Labels are task and model only: bounded by the configuration.

    Args:
        router: Its copies, failed policies and unjudged answers are counted.
        judge: Its missing verdicts are counted.
        lost: Outcomes lost so far.
    """

    def __init__(self, router: Router, judge: JudgeWatchdog, lost: Callable[[], int]) -> None:
        keys = ("task", "model")
        self._requests = Counter(
            "hotswap_requests",
            "Requests by how they ended, and why there.",
            (*keys, "code", "decision"),
        )
        self._tokens = Counter("hotswap_tokens", "Tokens by direction.", (*keys, "kind"))
        self._latency = Histogram("hotswap_request_latency_seconds", "Whole.", SECONDS, keys)
        self._ttft = Histogram("hotswap_ttft_seconds", "To the first token.", SECONDS, keys)
        self._quality = Histogram("hotswap_quality", "Judged by checks.", TENTHS, keys)
        # These are counted elsewhere, and their growth is added with each batch.
        self._totals = {
            "shadows": Counter("hotswap_shadows", "Copies by result: sent, dropped.", ("result",)),
            "unjudged": Counter(
                "hotswap_unjudged",
                "Answers without a verdict by reason: skipped (too many or too long), error, "
                "undecided (no check could tell).",
                ("reason",),
            ),
            "turned_away": Counter(
                "hotswap_turned_away",
                "Requests refused before their task was known, by code and HTTP status.",
                ("reason",),
            ),
            "policy_failures": Counter(
                "hotswap_policy_failures", "Choices of a model to try that a policy did not make."
            ),
            "outcomes_lost": Counter(
                "hotswap_outcomes_lost", "Outcomes dropped while the learnings took none."
            ),
        }
        self._router, self._judge, self._lost = router, judge, lost
        self._counted: Tally[tuple[str, str]] = Tally()

    def observe(self, batch: list[Outcome]) -> None:
        """Count a batch of outcomes."""
        requests: Tally[tuple[str, str, str, str]] = Tally()
        tokens: Tally[tuple[str, str, str]] = Tally()
        for row in batch:
            requests[row.task, row.model, row.end, row.decision] += 1
            tokens[row.task, row.model, "in"] += row.tokens_in
            tokens[row.task, row.model, "out"] += row.tokens_out
            tags = {"task": row.task, "model": row.model}
            if row.is_evidence:
                self._latency.observe(row.latency_ms / 1e3, tags)
            if row.is_evidence and row.ttft_ms is not None:
                self._ttft.observe(row.ttft_ms / 1e3, tags)
            if row.quality is not None:
                self._quality.observe(row.quality, tags)
        for (task, model, code, decision), count in requests.items():
            tags = {"task": task, "model": model, "code": code, "decision": decision}
            self._requests.inc(count, tags)
        for (task, model, kind), count in tokens.items():
            if count:
                self._tokens.inc(count, {"task": task, "model": model, "kind": kind})
        self._add_growth()

    def _add_growth(self) -> None:
        shadows, judge = self._router.shadows, self._judge
        totals = Tally(
            {
                ("shadows", "sent"): shadows.sent,
                ("shadows", "dropped"): shadows.dropped,
                ("unjudged", "skipped"): self._router.recorder.unjudged,
                ("unjudged", "error"): judge.errors,
                ("unjudged", "undecided"): judge.undecided,
                ("policy_failures", ""): self._router.explorer.failures,
                ("outcomes_lost", ""): self._lost(),
            }
        )
        for (code, status), count in self._router.turned_away.items():
            totals["turned_away", f"{status} {code}"] = count
        for (name, value), count in (totals - self._counted).items():
            counter = self._totals[name]
            counter.inc(count, dict.fromkeys(counter.info["tag_keys"], value))
        self._counted = totals
