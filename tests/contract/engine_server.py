"""A real OpenAI-compatible HTTP server over any engine, for the engine that talks to one."""

import asyncio
import json
import socket
import threading
from contextlib import aclosing, asynccontextmanager, contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from hotswap_ray.core.errors import HotswapError


def serve_app(engine, models=("served",)):
    """OpenAI's HTTP interface over `engine`; vLLM's sleep calls too."""

    async def list_models(_request):
        return JSONResponse({"object": "list", "data": [{"id": name} for name in models]})

    async def answer(request):
        endpoint = request.url.path.removeprefix("/v1/")
        body = await request.json()
        if body["model"] not in models:
            payload = {"error": {"message": "no such model", "code": "model_not_found"}}
            return JSONResponse(payload, status_code=404)
        try:
            if not body.get("stream"):
                return JSONResponse(await engine.generate(endpoint, body))
            stream = engine.stream(endpoint, body)
            first = await anext(stream)
        except HotswapError as error:
            payload = {"error": {"message": str(error), "code": error.code}}
            headers = {} if error.retry_after_s is None else {"retry-after": "7"}
            return JSONResponse(payload, status_code=error.http_status, headers=headers)

        async def events():
            async with aclosing(stream):
                yield f"data: {json.dumps(first)}\n\n"
                async for chunk in stream:
                    yield f"data: {json.dumps(chunk)}\n\n"
                yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def sleep(_request):
        await engine.sleep()
        return JSONResponse({})

    async def wake(_request):
        await engine.wake()
        return JSONResponse({})

    @asynccontextmanager
    async def lifespan(_app):
        await engine.start()
        yield
        await engine.stop()

    return Starlette(
        routes=[
            Route("/v1/models", list_models),
            Route("/v1/chat/completions", answer, methods=["POST"]),
            Route("/v1/completions", answer, methods=["POST"]),
            Route("/sleep", sleep, methods=["POST"]),
            Route("/wake_up", wake, methods=["POST"]),
        ],
        lifespan=lifespan,
    )


@contextmanager
def serving():
    """Gives `serve(engine, models=...)`, which returns a base URL; all servers end at the end."""
    running = []

    def serve(engine, **options):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # a client may come before the server's thread does
        config = uvicorn.Config(
            serve_app(engine, **options),
            log_level="critical",
            lifespan="on",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=asyncio.run, args=(server.serve(sockets=[listener]),), daemon=True
        )
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield serve
    for server, thread in running:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
