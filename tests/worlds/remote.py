"""A model of the engine `openai` before a scripted upstream."""

from contextlib import asynccontextmanager

from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.openai import OpenAIEngine

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
TEXT = {"prompt": "hi"}


def engine_at(url, capabilities=("chat", "completions"), clock=lambda: 0.0, **options):
    options = {"base_url": url, "max_retries": 0, **options}
    spec = ModelSpec(
        id="remote", engine="openai", source="far", options=options, capabilities=capabilities
    )
    return OpenAIEngine(spec, clock)


@asynccontextmanager
async def remote(upstream, **options):
    """A started engine; it is not asked whether the upstream has its model, unless `check` is."""
    engine = engine_at(upstream.url, **{"check": "none", **options})
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def streamed(engine, body=CHAT, endpoint="chat/completions"):
    return [chunk async for chunk in engine.stream(endpoint, body)]


def said(chunks):
    """The text of a stream's first choice."""
    parts = [
        choice.get("text") or choice.get("delta", {}).get("content") or ""
        for chunk in chunks
        for choice in chunk["choices"]
    ]
    return "".join(parts)
