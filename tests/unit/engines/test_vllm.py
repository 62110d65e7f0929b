"""What the vLLM engine decides without vLLM: placement, options, errors, the order of waking."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from hotswap_ray.core.errors import ConfigError, EngineError, EngineUnavailable, InvalidRequest
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.vllm.engine import VllmEngine
from hotswap_ray.engines.vllm.options import OWNED_ENGINE_KWARGS
from hotswap_ray.engines.vllm.runtime import LogMark, NoDownload, parse_events, typed_error

GIB = 2**30


def spec(resources=None, **options):
    return ModelSpec(
        id="m", engine="vllm", source="org/model", resources=resources or {}, options=options
    )


def placed(resources=None, **options):
    return VllmEngine.deployment_options(spec(resources, **options))


def test_the_controller_needs_neither_vllm_nor_ray_serve_llm():
    code = (
        "import sys; from hotswap_ray.core.spec.task import ModelSpec; "
        "from hotswap_ray.engines.base import load_engine_class; "
        "e = load_engine_class('vllm'); s = ModelSpec(id='m', engine='vllm'); "
        "e.deployment_options(s); e(s); "
        "print([m for m in sys.modules if m in ('vllm', 'torch', 'ray.serve.llm')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_on_cpus_one_bundle_holds_the_replica_and_its_child_processes():
    options = placed({"num_cpus": 4, "memory_bytes": 8 * GIB, "tensor_parallel": 2})
    assert options["placement_group_bundles"] == [{"CPU": 4, "memory": 8 * GIB}]
    assert options["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 0, "memory": 8 * GIB}


def test_a_replica_that_reserves_nothing_still_gets_a_bundle_that_ray_accepts():
    assert placed({"num_cpus": 0})["placement_group_bundles"] == [{"CPU": 0.001}]


def test_on_gpus_each_worker_has_a_bundle_and_the_replica_sits_in_the_first():
    options = placed(
        {"num_cpus": 2, "num_gpus": 1, "accelerator_type": "H100", "tensor_parallel": 2},
        placement_strategy="STRICT_PACK",
        engine_kwargs={"pipeline_parallel_size": 2},
    )
    worker = {"GPU": 1, "accelerator_type:H100": 0.001}
    assert options == {
        "ray_actor_options": {"num_cpus": 2, "num_gpus": 0},
        "placement_group_bundles": [{**worker, "CPU": 2}, worker, worker, worker],
        "placement_group_strategy": "STRICT_PACK",
    }


def test_a_share_of_a_gpu_is_reserved_as_a_share():
    assert placed({"num_gpus": 0.5})["placement_group_bundles"] == [{"GPU": 0.5, "CPU": 1}]


@pytest.mark.parametrize(("accelerator", "num_gpus"), [("gpu", 0), ("cpu", 1)])
def test_an_accelerator_that_contradicts_the_resources_is_refused(accelerator, num_gpus):
    with pytest.raises(ConfigError, match="contradict"):
        placed({"num_gpus": num_gpus}, accelerator=accelerator)


@pytest.mark.parametrize("key", OWNED_ENGINE_KWARGS)
def test_an_engine_argument_that_the_model_decides_is_refused_with_its_place(key):
    with pytest.raises(ConfigError) as refused:
        VllmEngine(spec(engine_kwargs={key: 1}))
    assert f"`{OWNED_ENGINE_KWARGS[key]}`" in str(refused.value)


def test_an_unknown_option_is_refused_with_the_closest_name():
    with pytest.raises(ConfigError, match="did you mean 'sleep_level'"):
        VllmEngine(spec(sleep_levle=2))


def llm_config(resources=None, source="org/model", **options):
    model = spec(resources, **options).model_copy(update={"source": source})
    return VllmEngine(model)._llm_config()


def test_the_model_decides_context_and_concurrency_and_gpus_can_sleep():
    config = llm_config({"num_gpus": 1, "tensor_parallel": 2, "accelerator_type": "L4"})
    assert config["accelerator_config"] == {"kind": "gpu"}
    assert config["accelerator_type"] == "L4"
    kwargs = config["engine_kwargs"]
    assert kwargs["max_model_len"] == 2048
    assert kwargs["max_num_seqs"] == 4
    assert kwargs["tensor_parallel_size"] == 2
    assert kwargs["enable_sleep_mode"] is True


def test_engine_arguments_of_the_operator_win_over_defaults():
    config = llm_config(engine_kwargs={"max_num_seqs": 7, "dtype": "float32"})
    assert config["accelerator_config"] == {"kind": "cpu"}
    assert config["engine_kwargs"]["max_num_seqs"] == 7
    assert config["engine_kwargs"]["dtype"] == "float32"
    assert config["engine_kwargs"]["enable_sleep_mode"] is False


def test_only_weights_in_a_cloud_store_are_downloaded_by_ray():
    assert "callback_config" in llm_config(source="org/model")
    assert "callback_config" in llm_config(source="/models/m")
    assert "callback_config" not in llm_config(source="s3://bucket/m")


async def test_the_hooks_around_loading_say_that_there_is_nothing_to_download():
    hooks = NoDownload(llm_config=None, raise_error_on_callback=True, ctx_kwargs={"runtime_env": 1})
    await hooks.run_callback("on_before_node_init")
    assert hooks.ctx.run_init_node is False
    assert hooks.ctx.runtime_env == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, InvalidRequest),
        (404, InvalidRequest),
        (500, EngineError),
        (503, EngineUnavailable),
        (None, EngineError),
    ],
)
def test_an_error_object_of_vllm_becomes_the_error_of_its_code(code, kind):
    error = typed_error({"message": "why", "type": "t", "code": code})
    assert type(error) is kind
    assert str(error) == "why"


def test_events_are_read_one_by_one_without_their_end_mark():
    text = 'data: {"a": 1}\n\ndata: {"b": "x\\n\\ny"}\n\ndata: [DONE]\n\n'
    assert parse_events(text) == [{"a": 1}, {"b": "x\n\ny"}]


class RecordingServer:
    """Stands where Ray's LLMServer is; remembers what it was asked."""

    engine = None

    def __init__(self):
        self.calls = []

    async def sleep(self, level):
        self.calls.append(("sleep", level))

    async def wakeup(self, tags=None):
        self.calls.append(("wakeup", tags))

    async def collective_rpc(self, method):
        self.calls.append(("rpc", method))
        return [3 * GIB, 4 * GIB]


def gpu_engine(**options):
    engine = VllmEngine(spec({"num_gpus": 1}, **options))
    engine._server = RecordingServer()
    return engine


async def test_deep_sleep_reads_the_weights_again_before_the_cache_returns():
    engine = gpu_engine(sleep_level=2)
    await engine.sleep()
    with pytest.raises(EngineUnavailable, match="asleep"):
        await engine.generate("completions", {"prompt": "p"})
    await engine.wake()
    await engine.wake()
    measure = ("rpc", "hotswap_device_bytes")
    assert engine._server.calls == [
        ("sleep", 2),
        measure,
        ("wakeup", ["weights"]),
        ("rpc", "reload_weights"),
        ("wakeup", ["kv_cache"]),
        measure,
    ]


async def test_light_sleep_wakes_in_one_step_and_memory_is_the_sum_over_the_workers():
    engine = gpu_engine()
    await engine.sleep()
    await engine.wake()
    assert ("wakeup", None) in engine._server.calls
    assert ("rpc", "reload_weights") not in engine._server.calls
    assert engine.memory_bytes() == 7 * GIB


@contextmanager
def stderr_in(path):
    """Standard error of this process goes to a file, as in a Ray worker."""
    kept = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def test_the_first_error_a_child_process_logs_is_quoted(tmp_path):
    with stderr_in(tmp_path / "worker.err"):
        os.write(2, b"ValueError: of an earlier load\n")
        mark = LogMark()
        assert mark.first_error() is None
        os.write(
            2,
            b"(EngineCore pid=7) ERROR [core.py:1] ValueError: No available memory\n"
            b"RuntimeError: Engine core initialization failed. See root cause above.\n",
        )
        assert mark.first_error() == "ValueError: No available memory"
