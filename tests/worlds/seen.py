"""What the learnings saw of a model."""

import numpy as np

from hotswap_ray.core.rollout.guardrails import Seen


def seen(
    number,
    failures=0,
    at_s=2e9,
    quality=np.nan,
    *,
    latency_ms=10.0,
    ttft_ms=np.nan,
    cost_usd=np.nan,
    success=1.0,
    refused=0.0,
):
    """Requests of one model, each with the same values or a pattern of them that repeats.

    Those that failed came first.
    """

    def repeated(values):
        return np.resize(np.asarray(values, float), number)

    succeeded = repeated(success)
    succeeded[:failures] = 0
    succeeded[repeated(refused) > 0] = 0
    return Seen(
        succeeded,
        repeated(latency_ms),
        repeated(ttft_ms),
        repeated(quality),
        repeated(at_s),
        repeated(cost_usd),
        repeated(np.nan),
        repeated(refused),
    )
