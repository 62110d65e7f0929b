"""An OpenAI body as vLLM takes it, or a refusal by name; and its answers as they were asked. Pure.

vLLM checks most of a body itself. Here is what it would leave out, or answer otherwise, without a
word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.fit.capabilities import canonicals
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.body.fields import read_fields, token_limit
from hotswap_ray.engines.body.formats import read_format
from hotswap_ray.engines.body.messages import EVERY_KIND, read_messages
from hotswap_ray.engines.body.prompts import read_prompts
from hotswap_ray.engines.body.refusals import does_not, refuse_undone
from hotswap_ray.engines.body.tools import calls_as_functions, functions_as_tools, read_tools

SEES = frozenset({"vision", "audio", "video"})
"""Capabilities with which a model reads more than text; which kinds exactly, vLLM knows."""
LARGEST_SEED = 2**63


@dataclass(frozen=True, slots=True)
class VllmRequest:
    """What vLLM is asked.

    Attributes:
        body: vLLM's own.
        has_functions: Whether calls are told in OpenAI's first way.
    """

    body: dict[str, Any]
    has_functions: bool = False


def has_tools(spec: ModelSpec, engine_kwargs: Mapping[str, Any]) -> bool:
    """Whether a model calls tools: it is declared, or vLLM has a parser for its calls.

    Example:
        >>> has_tools(ModelSpec(id="m", engine="vllm"), {"tool_call_parser": "hermes"})
        True
    """
    has_parser = bool(
        engine_kwargs.get("enable_auto_tool_choice") or engine_kwargs.get("tool_call_parser")
    )
    return has_parser or "tools" in canonicals(spec.capabilities)


def read_request(
    spec: ModelSpec, engine_kwargs: Mapping[str, Any], endpoint: Endpoint, body: dict[str, Any]
) -> VllmRequest:
    """Read a body.

    Args:
        spec: The model that was asked.
        engine_kwargs: vLLM's engine arguments.
        endpoint: Where the body was sent.
        body: As the client sent it.

    Raises:
        InvalidRequest: The body is malformed, or asks for what this model does not do.
    """
    asked = read_fields(endpoint, body)
    refuse_undone(spec, asked)
    schema = read_format(asked.get("response_format"))
    limit = token_limit(asked, may_be_none=asked.get("echo", False))
    told = {k: v for k, v in asked.items() if k != "max_completion_tokens"}
    if limit is not None:
        told["max_tokens"] = min(limit, spec.context_tokens)
    if "seed" in told:
        told["seed"] %= LARGEST_SEED
    if isinstance(named := (asked.get("response_format") or {}).get("json_schema"), dict):
        # vLLM insists on a name, which no answer depends on.
        told["response_format"] = {
            **asked["response_format"],
            "json_schema": {"name": "answer"} | named,
        }
    if endpoint == "completions":
        read_prompts(asked.get("prompt"))
        return VllmRequest(told)
    return _chat(spec, engine_kwargs, told, has_schema=schema is not None)


def _chat(
    spec: ModelSpec, engine_kwargs: Mapping[str, Any], asked: dict[str, Any], *, has_schema: bool
) -> VllmRequest:
    has_functions = "functions" in asked or "function_call" in asked
    told = functions_as_tools(asked)
    takes = EVERY_KIND if canonicals(spec.capabilities) & SEES else ()
    messages = read_messages(spec, told.get("messages"), takes=takes)
    wish = read_tools(told)
    if not has_tools(spec, engine_kwargs):
        if wish.is_required:
            raise does_not(spec, "do tools")
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            told.pop(name, None)
    if messages[-1]["role"] == "assistant":
        if has_schema or wish.is_required:
            raise InvalidRequest(
                f"{spec.id} does not go on with an assistant's message in the form of JSON or a "
                "call; end with a message of the user"
            )
        # Else vLLM begins a new turn after it, as if the message were whole.
        told = {"add_generation_prompt": False, "continue_final_message": True} | told
    if "gpt-oss" not in (spec.source or spec.id).lower():  # the templates that know the role
        messages = [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]
    return VllmRequest({**told, "messages": messages}, has_functions)


def as_asked(request: VllmRequest, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer or a chunk of vLLM as the client expects it.

    Example:
        >>> as_asked(VllmRequest({}), {"choices": [{"message": {"content": None}}]})
        {'choices': [{'message': {'content': ''}}]}
    """
    choices = [_choice(request, choice) for choice in answer.get("choices", ())]
    return {**answer, "choices": choices}


def _choice(request: VllmRequest, choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    if message and message.get("content") is None:
        says_more = any(message.get(k) for k in ("tool_calls", "function_call", "refusal", "audio"))
        if not says_more:
            choice = {**choice, "message": {**message, "content": ""}}
    return calls_as_functions(choice) if request.has_functions else choice
