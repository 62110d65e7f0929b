"""The vLLM engine with vLLM itself on CPUs: the contract, and that nothing stays behind."""

import asyncio
import inspect
import multiprocessing
import signal

import psutil
import pytest
import pytest_asyncio

from hotswap_ray.core.errors import EngineLoadFailed, EngineUnavailable
from hotswap_ray.engines.vllm.engine import VllmEngine
from hotswap_ray.testing import check_engine, text_of
from tests.worlds.until import until

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

CAPITALS = {"prompt": "Germany: Berlin\nItaly: Rome\nFrance:", "max_tokens": 1, "temperature": 0}
LONG = {"prompt": "One, two, three,", "max_tokens": 1900, "temperature": 0, "ignore_eos": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loaded(vllm_spec):
    """An engine that is loaded; each test leaves it so."""
    engine = VllmEngine(vllm_spec())
    await engine.start()
    yield engine
    await engine.stop()


def unfinished(engine):
    """Requests that vLLM has not ended."""
    return engine._server.engine._engine_client.get_num_unfinished_requests()


def has_ended(process):
    """Whether it is gone, or dead and only not yet reaped by whoever inherited it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_ray_has_the_names_that_the_engine_rests_on():
    """Public, and present in Ray 2.58, 2.59 and 2.60; another version must be looked at."""
    from ray.serve.llm import LLMConfig, LLMServer
    from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

    assert {
        "model_loading_config",
        "accelerator_config",
        "accelerator_type",
        "engine_kwargs",
        "experimental_configs",
        "log_engine_metrics",
        "callback_config",
    } <= set(LLMConfig.model_fields)
    assert ChatCompletionRequest(model="m", messages=[]).stream is False
    assert CompletionRequest(model="m", prompt="p").stream is False
    assert not inspect.iscoroutinefunction(LLMServer.sync_init)
    for name in ("start", "chat", "completions", "sleep", "wakeup", "check_health"):
        assert inspect.iscoroutinefunction(getattr(LLMServer, name)), name
    assert {"method", "timeout"} <= set(inspect.signature(LLMServer.collective_rpc).parameters)


async def test_ray_and_vllm_have_the_private_names_that_the_engine_rests_on():
    """In Ray 2.58.0, 2.58.1, 2.59.0 and 2.60.0, with vLLM 0.26, 0.27 and 0.29."""
    from ray.llm._internal.common.callbacks.base import CallbackBase, CallbackCtx
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    from hotswap_ray.engines.vllm.runtime import NoDownload

    assert "self._engine_client" in inspect.getsource(VLLMEngine.start)
    assert "timeout" in inspect.signature(AsyncLLM.shutdown).parameters
    assert inspect.iscoroutinefunction(VLLMEngine.shutdown)
    assert issubclass(EngineDeadError, Exception)
    assert issubclass(EngineGenerateError, Exception)
    # NoDownload stands in for CallbackBase: what VLLMEngine.start calls, and its context.
    assert {"run_callback", "ctx"} <= set(dir(NoDownload(ctx_kwargs={})))
    assert "ctx_kwargs" in inspect.signature(CallbackBase).parameters
    assert CallbackCtx().run_init_node is True


async def test_the_vllm_engine_keeps_the_contract(vllm_spec):
    await check_engine(VllmEngine(vllm_spec("contract")), within_s=120)
    assert multiprocessing.active_children() == []


async def test_a_model_answers_what_its_weights_know(loaded):
    answer = await loaded.generate("completions", CAPITALS)
    assert text_of(answer).strip() == "Paris"
    assert answer["model"] == "gemma-vllm"


async def test_closing_a_stream_aborts_the_request_in_vllm(loaded):
    stream = loaded.stream("completions", LONG)
    await anext(stream)
    assert unfinished(loaded) == 1
    await stream.aclose()
    await until(lambda: unfinished(loaded) == 0, within_s=60)


async def test_cancelling_a_whole_answer_aborts_the_request_and_stays_cancelled(loaded):
    task = asyncio.create_task(loaded.generate("chat/completions", chat(LONG)))
    await until(lambda: unfinished(loaded) == 1, within_s=60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: unfinished(loaded) == 0, within_s=60)


def chat(body):
    body = dict(body)
    return {**body, "messages": [{"role": "user", "content": body.pop("prompt")}]}


async def test_each_worker_is_asked_for_its_device_memory_which_is_none_on_cpus(loaded):
    assert await loaded._server.collective_rpc("hotswap_device_bytes") == [0]
    # Resident memory of the replica, EngineCore and the worker, which holds the weights.
    assert loaded.memory_bytes() > 2 * 2**30


async def test_sleep_frees_the_memory_of_the_weights_and_wake_answers_the_same(loaded):
    awake, before = loaded.memory_bytes(), await loaded.generate("completions", CAPITALS)
    await loaded.sleep()
    assert multiprocessing.active_children() == []
    assert loaded.memory_bytes() < awake - 2**30
    await loaded.check_health()
    await loaded.wake()
    assert text_of(await loaded.generate("completions", CAPITALS)) == text_of(before)


async def test_an_unknown_engine_argument_is_named(vllm_spec):
    with pytest.raises(EngineLoadFailed, match="no_such_argument"):
        await VllmEngine(vllm_spec("bad", no_such_argument=1)).start()


async def test_missing_weights_are_named(vllm_spec, tmp_path):
    spec = vllm_spec("bad").model_copy(update={"source": str(tmp_path / "nothing")})
    with pytest.raises(EngineLoadFailed, match="nothing"):
        await VllmEngine(spec).start()


async def test_a_dead_engine_core_is_noticed_and_stop_cleans_up(loaded):
    children = multiprocessing.active_children()
    tree = [p for c in children for p in [psutil.Process(c.pid), *psutil.Process(c.pid).children()]]
    stream = loaded.stream("completions", LONG)
    await anext(stream)
    tree[0].send_signal(signal.SIGKILL)
    with pytest.raises(EngineUnavailable):
        async for _ in stream:
            pass
    with pytest.raises(EngineUnavailable):
        await loaded.check_health()
    with pytest.raises(EngineUnavailable):
        await loaded.generate("completions", CAPITALS)
    await loaded.stop()
    assert all(has_ended(process) for process in tree)
    assert multiprocessing.active_children() == []


async def test_serve_places_a_replica_and_quotes_why_another_could_not_load(vllm_spec):
    from ray import serve

    from hotswap_ray.app import model_deployment

    def deploy(spec):
        target = model_deployment(spec, 30).bind(spec.model_dump(mode="json"), 1)
        serve.run_many(
            [serve.RunTarget(target=target, name=spec.id, route_prefix=None)],
            wait_for_applications_running=False,
        )

    def status(name):
        return serve.status().applications[name]

    good, bad = vllm_spec("good"), vllm_spec("tight", kv_cache_memory_bytes=1000)
    # Handles need no HTTP, and a proxy that starts slowly would fail the test.
    serve.start(proxy_location="Disabled")
    deploy(bad)
    await until(lambda: status("tight").status == "DEPLOY_FAILED", within_s=600)
    message = " ".join(d.message for d in status("tight").deployments.values())
    assert "No available memory for the cache blocks" in message
    serve.delete("tight", _blocking=False)
    deploy(good)
    await until(lambda: status("good").status == "RUNNING", within_s=600)
    handle = serve.get_app_handle("good")
    identity = await handle.ping.remote()
    replica = psutil.Process(identity["pid"])
    tree = replica.children(recursive=True)
    assert len(tree) >= 2
    body, tokens_in, tokens_out, _ = await handle.generate.remote("completions", CAPITALS)
    assert b"Paris" in body
    assert (tokens_in, tokens_out) == (11, 1)
    # The hardest end: nobody runs `stop`, and still nothing may hold the memory.
    replica.kill()
    await until(lambda: all(has_ended(process) for process in tree), within_s=60)
    serve.shutdown()
