"""The engine for OpenAI-compatible servers, over streams as only some servers write them."""

import httpx
import pytest

from hotswap_ray.core.errors import EngineUnavailable
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.openai import OpenAIEngine

FIRST = '{"choices": [{"index": 0, "text": "a\u2028b"}]}'
LAST = '{"choices": [{"index": 0, "text": "c", "finish_reason": "stop"}]}'


async def texts(raw):
    """What the engine makes of a stream that comes byte by byte."""

    async def body():
        for number in range(len(raw)):
            yield raw[number : number + 1]

    options = {"base_url": "http://server/v1"}
    engine = OpenAIEngine(ModelSpec(id="remote", engine="openai", source="m", options=options))
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body()))
    engine._client = httpx.AsyncClient(transport=transport, base_url="http://server/v1/")
    chunks = [chunk async for chunk in engine.stream("completions", {"prompt": "x"})]
    await engine.stop()
    return [choice["text"] for chunk in chunks for choice in chunk["choices"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("tail", ["data: [DONE]", ": bye", ""])
async def test_a_stream_is_read_however_its_lines_end_and_whatever_it_says_at_its_end(end, tail):
    lines = [": hi", f"data: {FIRST}", "", "data:", "", "event: x", f"data: {LAST}", "", tail, ""]
    assert await texts(end.join(lines).encode()) == ["a\u2028b", "c"]


async def test_nothing_is_read_after_the_end_of_a_stream():
    raw = f"data: {FIRST}\n\ndata: [DONE]\n\ndata: no json\n\n"
    assert await texts(raw.encode()) == ["a\u2028b"]


async def test_a_stream_that_ends_before_its_last_chunk_was_cut_off():
    with pytest.raises(EngineUnavailable, match="cut the stream off"):
        await texts(f"data: {FIRST}\n\n".encode())
