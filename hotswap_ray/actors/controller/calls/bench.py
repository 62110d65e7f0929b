"""What the controller answers about benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hotswap_ray.actors.controller.bench.bench import Bench
from hotswap_ray.actors.controller.calls.starts import Starts


class BenchCalls(Starts):
    """Methods of ``SwapController``; see ``Bench`` for what they do."""

    _bench: Bench

    async def bench(
        self,
        task: str | None = None,
        model: str | Sequence[str] | None = None,
        prompts: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Begin a benchmark: its ``bench_id``. See ``Bench.begin``."""
        await self.start()
        return await self._bench.begin(task, model, prompts, **options)

    async def bench_status(self, bench_id: str | None = None, wait_s: float = 0) -> dict[str, Any]:
        """A benchmark so far, or its end. See ``Bench.status``."""
        return await self._bench.status(bench_id, wait_s)

    async def bench_results(self, bench_id: str | None = None) -> list[dict[str, Any]]:
        """The result of each prompt. See ``Bench.results``."""
        return self._bench.results(bench_id)

    async def bench_cancel(self, bench_id: str) -> dict[str, Any]:
        """End a benchmark. See ``Bench.cancel``."""
        return await self._bench.cancel(bench_id)
