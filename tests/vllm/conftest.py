"""A local Ray and a model that vLLM serves on CPUs; skipped where vLLM is not installed.

`.ci/vllm_env` makes an environment that has it:
`.venv-vllm/bin/python -m pytest -m vllm tests/vllm`.

Measured on 2 cores that others used too (Ray 2.60, vLLM 0.29, Gemma 3 270M, float32, two
threads): 60 s to load, 5 s to sleep, 46 s to wake; 2 to 12 tokens/s by what else ran; resident
6.4 GB awake (worker 3.5, EngineCore 1.1, replica 1.9), 1.9 GB asleep. On a machine with a load
average of 30 loading took 250 s.
"""

import importlib.util
import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def has_vllm():
    # Where it is missing this folder itself can be imported as an empty package `vllm`.
    found = importlib.util.find_spec("vllm")
    return found is not None and found.origin is not None


def pytest_collection_modifyitems(items):
    if has_vllm():
        return
    skip = pytest.mark.skip(reason="vllm is not installed; .ci/vllm_env makes an environment")
    for item in items:
        if item.path.parent.name == "vllm":
            item.add_marker(skip)


@pytest.fixture(scope="session")
def local_ray():
    """One Ray for the session; what runs in it is not limited by the machine's cores."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(num_cpus=8, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def vllm_spec(local_ray):
    """`vllm_spec(id)` gives a `ModelSpec` that vLLM can serve on this machine.

    Answers few-shot prompts (`Italy: Rome\\nFrance:` -> ` Paris`).
    """
    from hotswap_ray.core.spec.task import ModelSpec
    from tests.vllm.gemma_hf import gemma_270m_hf

    folder = str(gemma_270m_hf())

    def spec(model_id="gemma-vllm", **engine_kwargs):
        return ModelSpec(
            id=model_id,
            engine="vllm",
            source=folder,
            context_tokens=2048,
            max_ongoing_requests=4,
            load_timeout_s=600,
            resources={"num_cpus": 1},
            options={
                "accelerator": "cpu",
                "engine_kwargs": {
                    "dtype": "float32",
                    "enforce_eager": True,
                    "kv_cache_memory_bytes": 256 * 2**20,
                    **engine_kwargs,
                },
            },
        )

    return spec
