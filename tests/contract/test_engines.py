"""Every engine keeps one contract, `hotswap_ray.testing.check_engine`."""

import asyncio
import json
import socket

import pytest

from hotswap_ray.core.errors import (
    ContextExceeded,
    EngineError,
    EngineLoadFailed,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    NotSupported,
    Overloaded,
    Saturated,
)
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.llama_cpp import LlamaCppEngine
from hotswap_ray.engines.openai import OpenAIEngine
from hotswap_ray.engines.simulated import SimulatedEngine
from hotswap_ray.testing import body_of, check_engine, text_of
from tests.contract.engine_server import serving
from tests.worlds.until import until


@pytest.fixture
def serve_engine():
    with serving() as serve:
        yield serve


def simulated(**options):
    return SimulatedEngine(ModelSpec(id="served", engine="simulated", options=options))


def llama(source="gemma3-270m", **changes):
    fields = {"id": "served", "engine": "llama_cpp", "source": source, "context_tokens": 512}
    fields["resources"] = {"num_cpus": 1}
    return LlamaCppEngine(ModelSpec(**{**fields, **changes}))


def remote(base_url, source="served", **options):
    options = {"base_url": base_url, "max_retries": 0, **options}
    return OpenAIEngine(ModelSpec(id="remote", engine="openai", source=source, options=options))


@pytest.mark.parametrize(
    "options",
    [{}, {"ttft_ms": 2, "token_ms": 1, "jitter": 0.5}, {"can_sleep": False}, {"capacity": 1}],
    ids=["instant", "with delays", "that cannot sleep", "one at a time"],
)
async def test_the_simulated_engine_keeps_the_contract(options):
    await check_engine(simulated(**options))


async def test_a_remote_server_keeps_the_contract(serve_engine):
    url = serve_engine(simulated(tokens=200, token_ms=1))
    await check_engine(remote(url), memory_known=False)


async def test_a_remote_server_that_can_sleep_keeps_the_contract(serve_engine):
    url = serve_engine(simulated())
    await check_engine(remote(url, vllm_sleep=True), memory_known=False)


@pytest.mark.llama
async def test_llama_cpp_keeps_the_contract_with_real_weights():
    await check_engine(llama(), context_tokens=512, within_s=60)


@pytest.mark.llama
async def test_a_remote_server_with_real_weights_keeps_the_contract(serve_engine):
    url = serve_engine(llama())
    await check_engine(remote(url), context_tokens=512, memory_known=False, within_s=60)


@pytest.mark.llama
async def test_closing_a_stream_ends_the_generation_inside_llama_cpp():
    engine = llama()
    await engine.start()
    stream = engine.stream("completions", body_of("completions", max_tokens=480, ignore_eos=True))
    await anext(stream)
    assert engine.in_flight == 1
    await stream.aclose()
    await until(lambda: engine.in_flight == 0, within_s=3)
    whole = asyncio.create_task(
        engine.generate("completions", body_of("completions", max_tokens=480, ignore_eos=True))
    )
    await until(lambda: engine.in_flight == 1)
    whole.cancel()
    await until(lambda: engine.in_flight == 0, within_s=3)
    assert whole.cancelled()
    await engine.stop()


@pytest.mark.llama
async def test_a_sleeping_llama_cpp_gives_most_of_its_memory_back():
    engine = llama()
    await engine.start()
    await engine.generate("completions", body_of("completions"))
    awake = engine.memory_bytes()
    await engine.sleep()
    assert engine.memory_bytes() < awake - 200 * 2**20
    await engine.wake()
    assert engine.memory_bytes() > awake - 100 * 2**20
    await engine.stop()


@pytest.mark.llama
async def test_sleeping_waits_for_the_request_in_flight():
    engine = llama()
    await engine.start()
    request = body_of("completions", max_tokens=60, ignore_eos=True)
    whole = asyncio.create_task(engine.generate("completions", request))
    await until(lambda: engine.in_flight == 1)
    await engine.sleep()
    assert (await whole)["usage"]["completion_tokens"] == 60
    await engine.stop()


@pytest.mark.llama
async def test_stopping_ends_the_request_in_flight_with_an_error():
    engine = llama()
    await engine.start()
    request = body_of("completions", max_tokens=480, ignore_eos=True)
    whole = asyncio.create_task(engine.generate("completions", request))
    await until(lambda: engine.in_flight == 1)
    await engine.stop()
    with pytest.raises(EngineUnavailable):
        await whole


@pytest.mark.llama
async def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths():
    engine = llama(context_tokens=256)
    await engine.start()
    with pytest.raises(InvalidRequest, match=r"the prompt has 30\d tokens.* is 256 tokens"):
        await engine.generate("completions", {"prompt": "word " * 300})
    await engine.stop()


@pytest.mark.llama
@pytest.mark.parametrize("size", [3_000, 100_000_000])
async def test_weights_cut_short_fail_to_load_and_leave_the_process_alive(tmp_path, size):
    from hotswap_ray.engines.weights.gemma import gemma_270m

    path = tmp_path / "cut.gguf"
    path.write_bytes(gemma_270m().read_bytes()[:size])
    engine = llama(source=str(path))
    with pytest.raises(EngineLoadFailed, match=str(path)):
        await engine.start()
    await engine.stop()


async def test_closing_a_stream_of_a_remote_server_reaches_its_engine(serve_engine):
    served = simulated(tokens=100_000, token_ms=5)
    engine = remote(serve_engine(served))
    await engine.start()
    stream = engine.stream("completions", body_of("completions", max_tokens=1900))
    await anext(stream)
    assert served.in_flight == 1
    await stream.aclose()
    await until(lambda: served.in_flight == 0)
    await engine.stop()


async def test_starting_says_which_models_the_server_has(serve_engine):
    engine = remote(serve_engine(simulated(), models=("a", "b")), source="c")
    with pytest.raises(EngineLoadFailed, match=r"no model 'c'; it has: a, b"):
        await engine.start()


async def test_a_server_that_is_not_there_fails_to_load():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connecting is refused
        engine = remote(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", max_retries=1)
        with pytest.raises(EngineLoadFailed, match="ConnectError"):
            await engine.start()


async def test_a_server_that_does_not_sleep_says_so(serve_engine):
    engine = remote(serve_engine(simulated()))
    await engine.start()
    with pytest.raises(NotSupported, match="vllm_sleep"):
        await engine.sleep()
    await engine.stop()


class Refusing(SimulatedEngine):
    """Raises what it is told."""

    def __init__(self, error):
        super().__init__(ModelSpec(id="served", engine="simulated"))
        self.error = error

    async def generate(self, endpoint, body):
        raise self.error


@pytest.mark.parametrize(
    ("served", "ours"),
    [
        (InvalidRequest("too long"), InvalidRequest),
        (Overloaded("full", 7), Overloaded),
        (EngineError("broken"), EngineUnavailable),
        (EngineUnavailable("away"), Saturated),
        (ContextExceeded("2 tokens, but 1"), ContextExceeded),
    ],
)
async def test_an_error_status_becomes_our_error_with_the_servers_words(serve_engine, served, ours):
    engine = remote(serve_engine(Refusing(served)))
    await engine.start()
    with pytest.raises(ours, match=str(served)) as raised:
        await engine.generate("completions", body_of("completions"))
    assert type(raised.value) is ours
    assert raised.value.retry_after_s == served.retry_after_s
    await engine.stop()


@pytest.mark.parametrize("options", [{"first_byte_timeout_s": 0.2}, {"total_timeout_s": 0.2}])
async def test_a_stream_that_begins_too_late_is_a_timeout(serve_engine, options):
    engine = remote(serve_engine(simulated(ttft_ms=60_000)), **options)
    await engine.start()
    with pytest.raises(EngineTimeout):
        await anext(engine.stream("completions", body_of("completions")))
    await engine.stop()


async def test_a_whole_answer_that_takes_too_long_is_a_timeout(serve_engine):
    engine = remote(serve_engine(simulated(ttft_ms=60_000)), total_timeout_s=0.2)
    await engine.start()
    with pytest.raises(EngineTimeout):
        await engine.generate("completions", body_of("completions"))
    await engine.stop()


async def test_a_whole_answer_may_take_longer_than_a_streams_first_byte(serve_engine):
    engine = remote(serve_engine(simulated(ttft_ms=500)), first_byte_timeout_s=0.1)
    await engine.start()
    assert text_of(await engine.generate("completions", body_of("completions")))
    await engine.stop()


async def test_a_stream_longer_than_the_total_limit_is_a_timeout(serve_engine):
    engine = remote(serve_engine(simulated(tokens=1000, token_ms=5)), total_timeout_s=0.5)
    await engine.start()
    with pytest.raises(EngineTimeout):
        async for _ in engine.stream("completions", body_of("completions", max_tokens=900)):
            pass
    await engine.stop()


class Uncounted(SimulatedEngine):
    """Streams without usage."""

    async def stream(self, endpoint, body):
        async for chunk in super().stream(endpoint, body):
            if "usage" not in chunk:
                yield chunk


async def test_a_server_that_counts_nothing_gets_an_estimate_of_the_answer_only(serve_engine):
    engine = remote(serve_engine(Uncounted(ModelSpec(id="served", engine="simulated"))))
    await engine.start()
    chunks = [chunk async for chunk in engine.stream("completions", body_of("completions"))]
    assert "".join(map(text_of, chunks)) == "simulated answer"
    assert chunks[-1]["usage"]["completion_tokens"] == 2
    assert chunks[-1]["usage"]["prompt_tokens"] == 0
    await engine.stop()


async def test_a_stream_that_the_server_cuts_off_is_an_error_not_a_short_answer(serve_engine):
    served = simulated(tokens=50, failure_rate=1, failure_at_token=3)
    engine = remote(serve_engine(served))
    await engine.start()
    with pytest.raises(EngineUnavailable):
        async for _ in engine.stream("completions", body_of("completions", max_tokens=50)):
            pass
    await engine.stop()


PROMPT = "The capital of France is Paris. The capital of Spain is"


def logprobs_of(answer):
    return answer["choices"][0]["logprobs"]


def evaluated(choice, tokens_before):
    """As `lm-eval` does: the loglikelihood of a continuation, and whether it is the likeliest."""
    told = choice["logprobs"]
    values = told["token_logprobs"][tokens_before:-1]
    likeliest = [max(top, key=top.get) for top in told["top_logprobs"][tokens_before:-1]]
    return sum(values), likeliest == told["tokens"][tokens_before:-1]


@pytest.mark.llama
async def test_a_prompt_is_as_likely_to_llama_cpp_as_when_it_said_the_same_itself():
    engine = llama()
    await engine.start()
    said = await engine.generate(
        "completions", {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "logprobs": 1}
    )
    text = PROMPT + said["choices"][0]["text"]
    read = await engine.generate(
        "completions", {"prompt": text, "max_tokens": 0, "logprobs": 1, "echo": True}
    )
    own, again = logprobs_of(said), logprobs_of(read)
    assert read["choices"][0]["text"] == text
    assert again["tokens"][-6:] == own["tokens"]
    # Prompts are computed in batches, whose sums differ in the last digits.
    assert again["token_logprobs"][-6:] == pytest.approx(own["token_logprobs"], abs=0.1)
    assert [text[at:].startswith(token) for at, token in zip(
        again["text_offset"][1:], again["tokens"][1:], strict=True
    )] == [True] * (len(again["tokens"]) - 1)  # fmt: skip
    await engine.stop()


@pytest.mark.llama
async def test_a_right_continuation_is_likelier_than_a_wrong_one_as_an_evaluation_asks():
    engine = llama()
    await engine.start()
    body = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    prompts = [f"{PROMPT}{city}" for city in (" Madrid", " Banana")]
    answer = await engine.generate("completions", {**body, "prompt": prompts})
    as_text = [choice["logprobs"] for choice in answer["choices"]]
    before = as_text[0]["tokens"].index(" Madrid")
    (right, is_greedy), (wrong, _) = (evaluated(one, before) for one in answer["choices"])
    assert is_greedy
    assert right > -3 > wrong
    assert answer["usage"]["completion_tokens"] == 2
    await engine.stop()


@pytest.mark.llama
async def test_all_chunks_of_an_echoed_answer_have_one_id():
    engine = llama()
    await engine.start()
    body = {"prompt": ["One two", "Three"], "echo": True, "max_tokens": 3}
    chunks = [chunk async for chunk in engine.stream("completions", body)]
    (own,) = {chunk["id"] for chunk in chunks}
    assert own.startswith("cmpl-")
    await engine.stop()


@pytest.mark.llama
async def test_tokens_that_end_an_answer_and_halves_of_a_character_have_logprobs_too():
    engine = llama()
    await engine.start()
    ask = {"max_tokens": 0, "logprobs": 2, "echo": True}
    for prompt, count in (([2, 818, 1, 818, 106, 529], 6), ("a \U0001fae8 b", 8)):
        told = logprobs_of(await engine.generate("completions", {**ask, "prompt": prompt}))
        assert len(told["tokens"]) == len(told["token_logprobs"]) == count
        assert told["token_logprobs"][0] is None
        assert all(value < 0 for value in told["token_logprobs"][1:])
    with pytest.raises(InvalidRequest, match="tokens"):
        await engine.generate("completions", {**ask, "prompt": [2, 99_999_999]})
    await engine.stop()


@pytest.mark.llama
async def test_an_empty_answer_of_llama_cpp_is_empty_text():
    engine = llama()
    await engine.start()
    few_shot = "Country: Japan\nCapital: Tokyo\nCountry: Spain\nCapital:"
    body = {"messages": [{"role": "user", "content": few_shot}], "temperature": 0, "stop": ["\n"]}
    answer = await engine.generate("chat/completions", {**body, "max_tokens": 8})
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"] == ""
    await engine.stop()


@pytest.mark.llama
async def test_a_required_call_comes_from_a_model_whose_template_has_tools():
    from tests.contract.engine_table import COLUMNS, NAMED, OTHER, TOOL, USER

    engine = COLUMNS["`llama_cpp`, template with tools"]()
    await engine.start()
    ids = set()
    for choice, names in (("required", {"weather", "clock"}), (NAMED, {"clock"})):
        body = {"messages": [USER], "tools": [TOOL, OTHER], "tool_choice": choice}
        chunks = [
            chunk async for chunk in engine.stream("chat/completions", {**body, "max_tokens": 80})
        ]
        (call,) = chunks[-2]["choices"][0]["delta"]["tool_calls"]
        assert call["function"]["name"] in names
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
        assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
        ids.add(call["id"])
    assert len(ids) == 2
    await engine.stop()


@pytest.mark.llama
async def test_usage_of_several_choices_counts_each_and_the_prompt_once():
    engine = llama()
    await engine.start()
    body = {"max_tokens": 5, "ignore_eos": True}
    (one,) = [await engine.generate("completions", {"prompt": "One two", **body})]
    several = await engine.generate("completions", {"prompt": ["One two"] * 2, "n": 2, **body})
    assert several["usage"]["completion_tokens"] == 20
    assert several["usage"]["prompt_tokens"] == 2 * one["usage"]["prompt_tokens"]
    await engine.stop()
