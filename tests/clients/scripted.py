"""A server whose every word is known, for the model `up`; it runs with the product's Python.

It does what a good instruct model does, so that what clients see is the product's doing alone:
calls tools until it has a result, obeys schemas, says nothing when asked to.
"""

import json
import threading

from hotswap_ray.engines.simulated.sample import sample
from hotswap_ray.testing.upstream import Upstream, chat_chunk, text_chunk, usage, whole_answer

CITY = {"name": "Oslo", "people": 700000}
PIECE = 5  # characters a chunk


def answer(body):
    """Text and calls of the answer to a chat body."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return f"The result is {last['content']}.", []
    if body.get("tools") and body.get("tool_choice", "auto") != "none":
        return None, [call(number, tool) for number, tool in enumerate(chosen(body))]
    form = body.get("response_format") or {"type": "text"}
    if form["type"] == "json_schema":
        value = sample(form["json_schema"]["schema"], "Oslo", every=True)
        return json.dumps(CITY if set(value) == set(CITY) else value), []
    if form["type"] == "json_object":
        return json.dumps(CITY), []
    if "say nothing" in str(last["content"]):
        return "", []
    return "far answer", []


def chosen(body):
    """The tool that has to be called, or the first; all if the user wants both."""
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        name = choice["function"]["name"]
        return [tool for tool in body["tools"] if tool["function"]["name"] == name]
    return body["tools"] if "both" in str(body["messages"][-1]["content"]) else body["tools"][:1]


def call(number, tool):
    """A call with arguments that the tool's schema takes."""
    schema = tool["function"].get("parameters") or {"type": "object"}
    value = sample(schema, "Oslo", every=True)
    arguments = json.dumps(CITY if set(value) == set(CITY) else value)
    function = {"name": tool["function"]["name"], "arguments": arguments}
    return {"id": f"call_{number}", "type": "function", "function": function}


def pieces(text):
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def chunks(text, calls):
    """As OpenAI streams: the role, then text, or each call's name and its arguments in pieces."""
    yield chat_chunk("" if text is not None else None, role="assistant")
    for piece in pieces(text or ""):
        yield chat_chunk(piece)
    for index, one in enumerate(calls):
        begun = {**one, "index": index, "function": {**one["function"], "arguments": ""}}
        yield chat_chunk(tool_calls=[begun])
        for piece in pieces(one["function"]["arguments"]):
            yield chat_chunk(tool_calls=[{"index": index, "function": {"arguments": piece}}])
    yield chat_chunk(finish="tool_calls" if calls else "stop")


async def model(request, reply):
    body = request.body
    text, calls = answer(body) if request.is_chat else ("far answer", [])
    if body.get("stream"):
        await reply.start()
        for chunk in chunks(text, calls) if request.is_chat else map(text_chunk, pieces(text)):
            await reply.event(chunk)
        await reply.event({**chat_chunk(), "choices": [], "usage": usage(5, 2)})
        await reply.done()
        return
    whole = whole_answer(text, chat=request.is_chat)
    if calls:
        whole["choices"][0]["message"]["tool_calls"] = calls
        whole["choices"][0]["finish_reason"] = "tool_calls"
    await reply.json(whole)


if __name__ == "__main__":
    with Upstream(models=["far"], script=model) as upstream:
        print(upstream.url, flush=True)  # noqa: T201
        threading.Event().wait()  # until the tests end this process
