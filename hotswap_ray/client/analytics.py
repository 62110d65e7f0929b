"""What was learned, asked and changed, for people and notebooks; the reading half of Arbiter."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hotswap_ray.client.link import LONGEST_S, ClusterLink
from hotswap_ray.config.checks import problems
from hotswap_ray.core.errors import InvalidRequest, NotFound
from hotswap_ray.core.evidence.knowledge import Complexity
from hotswap_ray.core.spec.price import Price
from hotswap_ray.core.spec.task import Preferences

if TYPE_CHECKING:
    import pandas as pd

SWAPS_COUNTED = 10_000
EVENTS = 10_000


class Analytics:
    """Learnings and history of a running hotswap_ray.

    Args:
        link: The connection to it.
    """

    def __init__(self, link: ClusterLink) -> None:
        self._link = link

    def task_performance_summary(self, task: str) -> dict[str, Any]:
        """What is known of a task, and under ``models`` the evidence of each model at it.

        Raises:
            NotFound: Unknown task.
        """
        summary: dict[str, Any] = self._link.learning("task_performance", task)
        return summary

    def statistics(self) -> dict[str, Any]:
        """Counts over everything.

        Returns:
            ``swap_stats`` with ``total_swaps, successful_swaps, failed, rolled_back`` and
            ``open`` (of the latest 10,000), ``requests``, and ``models`` with ``requests``,
            ``success_rate`` and ``quality`` of each, over all tasks.
        """
        phases = Counter(swap["phase"] for swap in self._swaps(None, SWAPS_COUNTED))
        ended = ("succeeded", "failed", "rolled_back")
        by_model: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in self._rows():
            if row["model"] is not None:
                by_model[row["model"]].append(row)
        models = {
            model: {
                "requests": sum(row["count"] for row in rows),
                "success_rate": _mean(rows, "success_rate", "count"),
                "quality": _mean(rows, "quality", "quality_count"),
            }
            for model, rows in sorted(by_model.items())
        }
        return {
            "swap_stats": {
                "total_swaps": phases.total(),
                "successful_swaps": phases["succeeded"],
                "failed": phases["failed"],
                "rolled_back": phases["rolled_back"],
                "open": phases.total() - sum(phases[phase] for phase in ended),
            },
            "requests": sum(model["requests"] for model in models.values()),
            "models": models,
        }

    def learnings(self) -> pd.DataFrame:
        """A row per task and model: counts, success rate, quality, latency, tokens, memory."""
        import pandas as pd

        return pd.DataFrame(self._rows())

    def outcomes(
        self,
        task: str | None = None,
        model: str | None = None,
        since_s: float | None = None,
        limit: int = 10_000,
    ) -> pd.DataFrame:
        """The newest requests, one a row for each model they met, in order of arrival.

        ``ending`` says how it ended where ``success`` does not (see
        ``hotswap_ray.core.outcome.Ending``), ``status`` with which HTTP status.

        Args:
            task: Only of this task.
            model: Only of this model.
            since_s: Only those that arrived from this Unix time on.
            limit: At most so many.
        """
        frame: pd.DataFrame = self._link.learning("outcomes", task, model, since_s, limit)
        return frame

    def swaps(self, task: str | None = None, limit: int = 1000) -> pd.DataFrame:
        """The latest swaps, the newest first; ``facts`` and ``seconds`` are mappings."""
        import pandas as pd

        return pd.DataFrame(self._swaps(task, limit))

    def swap(self, swap_id: str) -> dict[str, Any]:
        """One swap's record, with its ``journal``: every phase it entered, with its time.

        Raises:
            NotFound: Unknown swap.
        """
        record = self._link.controller("wait", swap_id, 0)
        return {**record, "journal": self._link.controller("journal", swap_id)}

    def decisions(self, task: str | None = None, limit: int = 100) -> pd.DataFrame:
        """Decisions of the auto-swap, and decisions not to, as they changed; the newest first.

        Columns are those of ``core.autoswap.decide.Decision``, with ``sentence``, ``swap_id`` and
        ``inputs``.
        """
        import pandas as pd

        return pd.DataFrame(self._link.controller("decisions", task, limit))

    def explain(self, subject: str) -> dict[str, Any]:
        """Why a task has its model, a swap happened, or a model answered a request.

        Args:
            subject: Task id, swap id or request id.

        Returns:
            ``kind``, ``subject``, ``sentence``, of a task ``what_would_change``, ``inputs`` and
            the ``decisions`` behind it.

        Raises:
            NotFound: It is none of the three.
        """
        explanation: dict[str, Any] = self._link.controller("explain", subject)
        return explanation

    def _swaps(self, task: str | None, limit: int) -> list[dict[str, Any]]:
        docs: list[dict[str, Any]] = self._link.controller("swaps", task, limit)
        return docs

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._link.learning("learnings")
        return rows

    def predict(self, task: str, model: str) -> dict[str, Any]:
        """What a model is expected to do at a task, before anything is changed.

        Returns:
            ``quality, latency_ms, memory_bytes, cost_usd, load_s``, each ``low, mid, high`` of a
            90% interval or ``None`` where nothing is known; ``reward``, whether the quality is
            of scores or of success; ``accepted`` and ``gaps``, whether a swap would be refused.

        Raises:
            NotFound: Unknown task or model.
        """
        prediction: dict[str, Any] = self._link.controller("predict", task, model)
        return prediction

    def probe(self, model: str) -> dict[str, Any]:
        """Find out what a loaded model can do by asking it; once per load, then it is known.

        Returns:
            ``model, generation`` and ``probes``: rows of ``name, declared, supported`` (``None``
            where it could not be measured) and ``detail``.

        Raises:
            NotFound: Unknown model.
            Conflict: It is not loaded.
        """
        report: dict[str, Any] = self._link.controller("probe", model, timeout_s=LONGEST_S)
        return report

    def calibration(self) -> dict[str, Any]:
        """Predictions of the latest swaps against what they came to.

        Returns:
            ``quantities``: per quantity ``n``, the share ``inside`` its interval, ``nominal``,
            ``calibration_error`` and mean absolute ``relative_error``; ``swaps``: one by one.
        """
        calibration: dict[str, Any] = self._link.controller("calibration")
        return calibration

    def export_replay(self, path: str | Path, limit: int = 1_000_000) -> dict[str, Any]:
        """Write the judged answers as the recorded results that ``replay`` reads.

        Answers to one prompt share a row where that is known (shadows, benchmarks). The others
        are put together per task, the n-th answer of each model as prompt n; see
        ``hotswap_ray.replay.export``.

        Args:
            path: File to write, ending in ``.csv``, ``.csv.gz`` or ``.parquet``.
            limit: At most so many requests, the newest.

        Returns:
            ``rows, models, paired`` and ``unpaired`` prompts per task, judged answers
            ``left_out`` per model, and ``unjudged``.

        Raises:
            InvalidRequest: The file's ending, or no task has judged answers of two models.
        """
        from hotswap_ray.replay import export as replay_export

        if not replay_export.is_recording(path):
            raise InvalidRequest(f"{path}: end it in {', '.join(replay_export.SUFFIXES)}")
        frame = self._link.learning("outcomes", None, None, None, limit, timeout_s=600)
        specs = {row["model"]: row["spec"] for row in self._link.controller("status")["models"]}
        prices = {
            model: Price(spec["usd_per_million_tokens_in"], spec["usd_per_million_tokens_out"])
            for model, spec in specs.items()
        }
        recording = replay_export.record(frame, self._bench_prompts(list(specs)), prices)
        replay_export.write(recording.frame, path)
        return recording.summary()

    def _bench_prompts(self, models: list[str]) -> dict[str, str]:
        """Every run's answers to the prompts of the last benchmark; none is known without one."""
        from hotswap_ray.replay.export import bench_prompts

        try:
            keys = {row["key"] for row in self._link.controller("bench_results")}
        except NotFound:
            return {}
        bench_ids, after_id = set(), 0
        while events := self._link.controller("events", after_id, EVENTS):
            bench_ids |= {
                event["doc"]["bench_id"] for event in events if event["kind"] == "benchmark"
            }
            after_id = events[-1]["id"]
        return bench_prompts(
            {"bench_id": bench_id, "key": key, "model": model}
            for bench_id in bench_ids
            for key in keys
            for model in models
        )

    def export_learnings(self, path: str | Path, with_outcomes: bool = True) -> int:
        """Write all learnings as JSON lines; returns how many lines.

        Args:
            path: File to write; whole or not at all.
            with_outcomes: Also every request, not only what was learned of them.
        """
        lines: list[str] = self._link.learning("export_lines", with_outcomes, timeout_s=600)
        target = Path(path)
        part = target.with_name(target.name + ".part")
        part.write_text("".join(line.rstrip("\n") + "\n" for line in lines), encoding="utf-8")
        part.replace(target)
        return len(lines)

    def import_learnings(self, path: str | Path) -> dict[str, int]:
        """Take in what ``export_learnings`` wrote, all or none; twice is harmless.

        Returns:
            Lines taken in, by kind.

        Raises:
            InvalidRequest: The file, or a line of it, cannot be read.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{path}: {error}") from None
        counts: dict[str, int] = self._link.learning("import_lines", lines, timeout_s=600)
        return counts

    def record_task_performance(
        self,
        task: str,
        latency_ms: float,
        quality: float | None = None,
        memory_bytes: int = 0,
        success: bool = True,
    ) -> None:
        """Learn about a task from work that no model of ours did.

        Args:
            task: Task; a new one is made.
            latency_ms: Time it took.
            quality: In [0, 1]; ``None`` when nobody judged it.
            memory_bytes: Memory it took; 0 when unknown.
            success: Whether it worked.
        """
        self._link.learning(
            "record_task_performance", task, latency_ms, quality, memory_bytes, success
        )

    def learn_task_characteristics(
        self,
        task: str,
        preferences: Preferences | Mapping[str, float] | None = None,
        complexity: Complexity | None = None,
    ) -> None:
        """State what matters for a task; it outlasts restarts and the configuration.

        Args:
            task: Task; a new one is made.
            preferences: Weights of quality, latency, cost and memory.
            complexity: ``low``, ``medium`` or ``high``; else it is derived from traffic.
        """
        if isinstance(preferences, Mapping):
            try:
                preferences = Preferences.model_validate(dict(preferences))
            except ValidationError as error:
                raise InvalidRequest(f"preferences: {problems(error, Preferences)}") from None
        self._link.learning("learn_task_characteristics", task, preferences, complexity)


def _mean(rows: list[Mapping[str, Any]], name: str, weight: str) -> float | None:
    pairs = [(row[name], row[weight]) for row in rows if row[name] is not None]
    total = sum(count for _, count in pairs)
    return sum(value * count for value, count in pairs) / total if total else None
