"""The replica around an engine: framing, bounds, sleep and cancellation."""

import asyncio
from typing import ClassVar

import orjson
import pytest
from pydantic import BaseModel, ConfigDict

from hotswap_ray.actors.replica import replica as model_replica
from hotswap_ray.actors.replica.replica import ModelReplica
from hotswap_ray.core.errors import EngineError, EngineLoadFailed, EngineUnavailable
from hotswap_ray.core.routing.call_ids import mark_of
from hotswap_ray.testing.upstream import Upstream

BODY = {"messages": [{"role": "user", "content": "hi"}]}
HERE = f"{__name__}:RecordingEngine"


class RecordingEngine:
    """An engine that writes down what is done with it."""

    class Options(BaseModel):
        """None that matter."""

        model_config = ConfigDict(extra="forbid")
        error: str | None = None

    made: ClassVar[list] = []

    def __init__(self, spec):
        self.spec = spec
        self.events = []
        self.working = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.chunks = [
            {"choices": [{"index": 0, "delta": {"content": "one"}}]},
            {"choices": [{"index": 0, "delta": {"content": " two"}}]},
            {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        ]
        self.made.append(self)

    async def start(self):
        self.events.append("start")
        if error := self.spec.options.get("error"):
            raise EngineLoadFailed(error)

    async def generate(self, endpoint, body):
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            await self.gate.wait()
            return {"model": "inner", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
        finally:
            self.working -= 1

    async def stream(self, endpoint, body):
        self.working += 1
        try:
            for chunk in self.chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield {"model": "inner", **chunk}
                await self.gate.wait()
        finally:
            await asyncio.sleep(0)  # freeing an engine takes a moment
            self.working -= 1

    async def sleep(self):
        self.events.append("sleep")

    async def wake(self):
        self.events.append("wake")

    async def stop(self):
        self.events.append("stop")

    def memory_bytes(self):
        self.events.append("memory")
        return 1000

    async def check_health(self):
        raise EngineUnavailable("ill")


async def made(**spec):
    """A replica and its engine."""
    spec = {"id": "m", "engine": HERE, **spec}
    replica = ModelReplica.__new__(ModelReplica)
    await replica.__init__(spec, 3)
    return replica, RecordingEngine.made[-1]


async def frames(replica, **body):
    items = [item async for item in replica.stream("chat/completions", {**BODY, **body})]
    return [*items[:-1], items[-1][0], items[-1][1:]]  # the usage comes with the last frame


def events_of(frame):
    return [event.removeprefix(b"data: ") for event in frame.split(b"\n\n") if event]


async def test_a_whole_answer_has_the_models_own_name_its_tokens_and_memory():
    replica, _ = await made()
    body, *numbers = await replica.generate("chat/completions", BODY)
    assert orjson.loads(body)["model"] == "m"
    assert numbers == [5, 2, 1000]


async def test_the_first_chunk_goes_out_alone_and_the_last_item_is_the_usage():
    replica, _ = await made()
    first, *rest, usage = await frames(replica)
    assert [orjson.loads(event)["choices"][0]["delta"] for event in events_of(first)] == [
        {"content": "one"}
    ]
    assert events_of(b"".join(rest))[-1] == b"[DONE]"
    assert usage == (5, 2, 1000)


async def test_chunks_that_come_close_together_travel_together(monkeypatch):
    monkeypatch.setattr(model_replica, "STREAM_INTERVAL_S", 60)
    replica, engine = await made()
    engine.chunks = [engine.chunks[0]] * 50 + [engine.chunks[-1]]
    first, second, _ = await frames(replica)
    assert len(events_of(first)) == 1
    assert len(events_of(second)) == 50  # 49 chunks and [DONE]


@pytest.mark.parametrize("wanted", [True, False])
async def test_usage_is_shown_to_the_client_only_when_asked_for(wanted):
    replica, _ = await made()
    items = await frames(replica, stream_options={"include_usage": wanted})
    events = [orjson.loads(event) for event in events_of(b"".join(items[:-1]))[:-1]]
    assert [event["usage"] for event in events if "usage" in event] == (
        [{"prompt_tokens": 5, "completion_tokens": 2}] if wanted else []
    )
    assert all(event["model"] == "m" for event in events)
    assert items[-1] == (5, 2, 1000)


async def test_a_stream_that_fails_has_no_end_and_no_usage():
    replica, engine = await made()
    engine.chunks[1] = EngineError("broken")
    stream = replica.stream("chat/completions", BODY)
    assert b"[DONE]" not in await anext(stream)
    with pytest.raises(EngineError):
        await anext(stream)
    assert engine.working == 0


ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
EMPTY = {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}


async def test_a_role_goes_out_with_the_first_text_and_not_before_it():
    replica, engine = await made()
    engine.chunks = [ROLE, EMPTY, *engine.chunks]
    first, *_ = await frames(replica)
    assert [orjson.loads(event)["choices"][0]["delta"] for event in events_of(first)] == [
        {"role": "assistant", "content": ""},
        {},
        {"content": "one"},
    ]


async def test_a_stream_that_fails_before_it_says_anything_sends_nothing():
    replica, engine = await made()
    engine.chunks = [ROLE, EMPTY, EngineError("broken")]
    stream = replica.stream("chat/completions", BODY)
    with pytest.raises(EngineError, match="broken"):
        await anext(stream)
    assert engine.working == 0


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {"reasoning_content": "hm"}},
        {"delta": {"reasoning": "hm"}},
        {"delta": {"refusal": "no"}},
        {"delta": {"tool_calls": [{"index": 0, "function": {"name": "f"}}]}},
        {"delta": {"function_call": {"name": "f"}}},
        {"delta": {}, "finish_reason": "stop"},
        {"text": "one"},
    ],
)
async def test_thinking_a_call_a_refusal_and_an_end_are_a_first_byte(choice):
    replica, engine = await made()
    engine.chunks = [ROLE, {"choices": [{"index": 0, **choice}]}, ROLE]
    stream = replica.stream("chat/completions", BODY)
    assert [orjson.loads(event)["choices"] for event in events_of(await anext(stream))] == [
        ROLE["choices"],
        [{"index": 0, **choice}],
    ]
    await stream.aclose()


async def test_an_answer_without_any_text_is_an_answer():
    replica, engine = await made()
    engine.chunks = [ROLE, engine.chunks[-1]]
    first, usage = await frames(replica)
    assert orjson.loads(events_of(first)[0])["choices"] == ROLE["choices"]
    assert events_of(first)[1:] == [b"[DONE]"]
    assert usage == (5, 2, 1000)


async def test_text_before_a_pause_of_the_model_does_not_wait_for_its_end():
    replica, engine = await made()

    async def pausing():
        yield {"choices": [{"index": 0, "delta": {"content": "one"}}]}
        yield {"choices": [{"index": 0, "delta": {"content": " two"}}]}
        await asyncio.Event().wait()

    engine.stream = lambda endpoint, body: pausing()
    stream = replica.stream("chat/completions", BODY)
    await anext(stream)
    second = await asyncio.wait_for(anext(stream), 30)
    assert orjson.loads(events_of(second)[0])["choices"][0]["delta"] == {"content": " two"}
    await stream.aclose()


async def test_of_usage_in_every_chunk_the_last_counts_and_keeps_what_else_it_says():
    replica, engine = await made()
    text = engine.chunks[0]
    last = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    counts = [{"prompt_tokens": 5, "completion_tokens": n} for n in (1, 2)]
    engine.chunks = [{**text, "usage": usage} for usage in (*counts, last)]
    items = await frames(replica, stream_options={"include_usage": True})
    events = [orjson.loads(event) for event in events_of(b"".join(items[:-1]))[:-1]]
    assert [event["usage"] for event in events if "usage" in event] == [last]
    assert events[-1]["choices"] == []
    assert items[-1] == (5, 3, 1000)


TOOLS = [{"type": "function", "function": {"name": "f"}}]
MARK = mark_of("m", 3)


async def test_a_streamed_call_says_who_made_it_and_later_parts_of_it_have_no_id():
    replica, engine = await made()
    calls = [{"index": 0, "id": "c1", "function": {"name": "f"}}, {"index": 0, "id": None}]
    engine.chunks = [{"choices": [{"index": 0, "delta": {"tool_calls": [c]}}]} for c in calls]
    items = await frames(replica, tools=TOOLS)
    events = [orjson.loads(event) for event in events_of(b"".join(items[:-1]))[:-1]]
    made_ids = [event["choices"][0]["delta"]["tool_calls"][0]["id"] for event in events]
    assert made_ids == [f"c1.h{MARK}", None]
    assert calls[0]["id"] == "c1"


async def test_a_whole_answers_call_says_who_made_it():
    replica, engine = await made()
    answer = {
        "choices": [{"message": {"content": None, "tool_calls": [{"id": "c1"}, {"id": ""}]}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }

    async def generate(endpoint, body):
        return answer

    engine.generate = generate
    body, *_ = await replica.generate("chat/completions", {**BODY, "tools": TOOLS})
    (choice,) = orjson.loads(body)["choices"]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == [f"c1.h{MARK}", ""]
    assert answer["choices"][0]["message"]["tool_calls"][0]["id"] == "c1"


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_engine_sees_ids_of_calls_as_it_gave_them(streamed):
    replica, engine = await made()
    seen = []

    async def generate(endpoint, body):
        seen.append(body)
        return {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}

    async def stream(endpoint, body):
        seen.append(body)
        yield engine.chunks[0]

    def messages(*ids):
        return [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [{"id": one} for one in ids]},
            *({"role": "tool", "tool_call_id": one, "content": "1"} for one in ids),
        ]

    engine.generate, engine.stream = generate, stream
    body = {"messages": messages(f"c1.h{MARK}", "theirs", "c2.h00000000"), "tools": TOOLS}
    kept = orjson.dumps(body)
    if streamed:
        await frames(replica, **body)
    else:
        await replica.generate("chat/completions", body)
    assert seen[0]["messages"] == messages("c1", "theirs", "c2")
    assert orjson.dumps(body) == kept


async def test_no_more_requests_at_once_than_the_spec_allows():
    replica, engine = await made(max_ongoing_requests=2)
    engine.gate.clear()
    requests = [asyncio.create_task(replica.generate("chat/completions", BODY)) for _ in range(5)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert engine.working == 2
    engine.gate.set()
    await asyncio.gather(*requests)
    assert engine.most == 2


async def test_a_stream_that_is_closed_frees_the_engine_before_its_slot():
    replica, engine = await made(max_ongoing_requests=1)
    stream = replica.stream("chat/completions", BODY)
    await anext(stream)
    assert engine.working == 1
    await stream.aclose()
    assert engine.working == 0
    await frames(replica)


async def test_a_cancelled_request_stops_the_engine_and_one_that_waits_never_reaches_it():
    replica, engine = await made(max_ongoing_requests=1)
    engine.gate.clear()
    first, second = (
        asyncio.create_task(replica.generate("chat/completions", BODY)) for _ in range(2)
    )
    for _ in range(10):
        await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.wait([first, second])
    assert (engine.working, engine.most) == (0, 1)
    engine.gate.set()
    await replica.generate("chat/completions", BODY)


async def test_a_sleeping_model_refuses_and_is_healthy_and_wakes():
    replica, engine = await made()
    with pytest.raises(EngineUnavailable, match="ill"):
        await replica.check_health()
    assert await replica.sleep() == 1000
    await replica.sleep()
    await replica.check_health()
    with pytest.raises(EngineUnavailable, match="asleep"):
        await replica.generate("chat/completions", BODY)
    with pytest.raises(EngineUnavailable, match="asleep"):
        await frames(replica)
    assert (await replica.ping())["asleep"]
    await replica.wake()
    await replica.wake()
    await replica.generate("chat/completions", BODY)
    assert [event for event in engine.events if event in ("sleep", "wake")] == ["sleep", "wake"]


async def test_an_engine_that_cannot_load_is_stopped_and_its_reason_is_raised():
    with pytest.raises(EngineLoadFailed, match=r"no file x\.gguf"):
        await made(options={"error": "no file x.gguf"})
    assert RecordingEngine.made[-1].events == ["start", "stop"]


async def test_ping_says_who_it_is():
    replica, _ = await made()
    said = await replica.ping()
    assert (said["model"], said["generation"], said["memory_bytes"]) == ("m", 3, 1000)
    assert said["load_s"] >= 0


async def test_memory_is_not_measured_for_every_answer():
    replica, engine = await made()
    for _ in range(20):
        await replica.generate("chat/completions", BODY)
    assert engine.events.count("memory") == 1


async def test_stop_refuses_what_still_comes():
    replica, engine = await made()
    await replica.stop()
    with pytest.raises(EngineUnavailable):
        await replica.generate("chat/completions", BODY)
    assert engine.events[-1] == "stop"


async def test_a_trace_goes_on_to_the_server_behind_an_engine_and_to_no_other_request():
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    async with Upstream() as upstream:
        options = {"base_url": upstream.url, "check": "none"}
        spec = {"id": "m", "engine": "openai", "source": "far", "options": options}
        replica = ModelReplica.__new__(ModelReplica)
        await replica.__init__(spec, 1)
        await replica.generate("chat/completions", BODY, trace)
        async for _ in replica.stream("chat/completions", {**BODY, "stream": True}, trace):
            pass
        await replica.generate("chat/completions", BODY)
        await replica.stop()
    traced = [request.headers.get("traceparent") for request in upstream.posts]
    assert traced == [trace["traceparent"], trace["traceparent"], None]
