"""An OpenAI body as llama.cpp takes it, or a refusal by name. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.body.fields import read_fields, token_limit
from hotswap_ray.engines.body.formats import ANY_OBJECT, read_format
from hotswap_ray.engines.body.messages import read_messages
from hotswap_ray.engines.body.prompts import Prompt, read_prompts
from hotswap_ray.engines.body.refusals import does_not, refuse_undone
from hotswap_ray.engines.body.tools import functions_as_tools, read_tools
from hotswap_ray.engines.llama_cpp.forced import ForcedCall
from hotswap_ray.engines.llama_cpp.template import (
    BASE_MODEL_STOP,
    as_plain_turns,
    takes_developer,
    template_uses,
)

OURS = ("max_completion_tokens", "suffix", "best_of", "echo")
TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
HINTS = ("metadata", "user", "store", "service_tier", "reasoning_effort", "prediction")
"""What changes no answer here; llama.cpp is not asked to read it."""
COMPLETION_TOKENS = 16
"""OpenAI's default for text completions."""


@dataclass(frozen=True, slots=True)
class Template:
    """The chat template of a loaded model.

    Attributes:
        text: Jinja.
        is_plain: Whether it is ours for base models, which have none.
    """

    text: str
    is_plain: bool


@dataclass(frozen=True, slots=True)
class LlamaRequest:
    """What llama.cpp is asked, and what its answer has to be turned into.

    Attributes:
        endpoint: Where to.
        body: llama.cpp's own, always streamed.
        n: Choices of each prompt.
        prompts: Of a text completion, in order; empty for a chat.
        echo: Whether the prompts are part of the answer.
        top_logprobs: How many tokens beside the chosen one are told; ``None`` for no logprobs.
        forced: The call that must be made.
        has_functions: Whether calls are told in OpenAI's first way.
    """

    endpoint: Endpoint
    body: dict[str, Any]
    n: int = 1
    prompts: tuple[Prompt, ...] = ()
    echo: bool = False
    top_logprobs: int | None = None
    forced: ForcedCall | None = None
    has_functions: bool = False


def read_request(
    spec: ModelSpec, template: Template, endpoint: Endpoint, body: dict[str, Any]
) -> LlamaRequest:
    """Read a body.

    Args:
        spec: The model that was asked.
        template: Its chat template.
        endpoint: Where the body was sent.
        body: As the client sent it.

    Raises:
        InvalidRequest: The body is malformed, or asks for what this model does not do.
    """
    asked = read_fields(endpoint, body)
    refuse_undone(spec, asked)
    n = asked.get("n", 1)
    if n > spec.max_ongoing_requests:
        raise InvalidRequest(
            f"{spec.id} gives at most {spec.max_ongoing_requests} answers to one request "
            f"(its max_ongoing_requests), not n = {n}; ask several times"
        )
    read = _chat if endpoint == "chat/completions" else _completion
    request = read(spec, template, asked)
    told = {k: v for k, v in request.body.items() if k not in (*OURS, *HINTS)}
    told |= {"stream": True, "stream_options": {"include_usage": True}}
    if "seed" in told:
        told["seed"] %= 2**32
    if "logit_bias" in told:
        told["logit_bias"] = [[int(k), float(v)] for k, v in told["logit_bias"].items()]
    return replace(request, body=told, n=n)


def _completion(spec: ModelSpec, template: Template, asked: dict[str, Any]) -> LlamaRequest:
    prompts = read_prompts(asked.get("prompt"))
    echo = asked.get("echo", False)
    limit = token_limit(asked, may_be_none=echo)
    limit = COMPLETION_TOKENS if limit is None else min(limit, spec.context_tokens)
    told = {k: v for k, v in asked.items() if k != "response_format"} | {"max_tokens": limit}
    schema = read_format(asked.get("response_format"))
    if schema is not None and schema is not ANY_OBJECT:
        # llama.cpp would drop a schema that it cannot compile without a word.
        raise InvalidRequest(
            f"{spec.id} meets a JSON schema in chat completions only; ask there, or for json_object"
        )
    if schema is not None:
        told["json_schema"] = schema
    top = asked.get("logprobs")
    if top is not None:
        told["logprobs"] = max(top, 1)
    return LlamaRequest("completions", told, prompts=tuple(prompts), echo=echo, top_logprobs=top)


def _chat(spec: ModelSpec, template: Template, asked: dict[str, Any]) -> LlamaRequest:
    has_functions = "functions" in asked or "function_call" in asked
    asked = functions_as_tools(asked)
    messages = read_messages(spec, asked.get("messages"))
    schema, wish = read_format(asked.get("response_format")), read_tools(asked)
    can_call = template_uses(template.text, "tools")
    if wish.is_required and not can_call:
        raise does_not(spec, "do tools")
    forced = ForcedCall.of(wish)
    told = {k: v for k, v in asked.items() if k not in TOOLS}
    if wish.tools and can_call:
        told["tools"] = list(wish.tools)
        if "parallel_tool_calls" in asked and forced is None:
            told["parallel_tool_calls"] = asked["parallel_tool_calls"]
    if forced is not None:
        schema = forced.schema()
    if schema is not None:
        if messages[-1]["role"] == "assistant":
            raise InvalidRequest(
                f"{spec.id} does not go on with an assistant's message in the form of JSON or a "
                "call; end with a message of the user"
            )
        told["response_format"] = {"type": "json_schema", "json_schema": {"schema": schema}}
    if "reasoning_effort" in asked and template_uses(template.text, "reasoning_effort"):
        kwargs = {"reasoning_effort": asked["reasoning_effort"]}
        told["chat_template_kwargs"] = kwargs | asked.get("chat_template_kwargs", {})
    if not takes_developer(template.text):
        messages = [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]
    if template.is_plain:
        messages = as_plain_turns(messages)
        told["stop"] = [*told.get("stop", ()), BASE_MODEL_STOP]
    # A chat answer without a limit ends at the context's end.
    limit = min(token_limit(asked) or spec.context_tokens, spec.context_tokens)
    told |= {"messages": messages, "max_tokens": limit}
    top = asked.get("top_logprobs", 0) if asked.get("logprobs") else None
    if top is not None:
        told["top_logprobs"] = max(top, 1)
    else:
        told.pop("top_logprobs", None)
    return LlamaRequest(
        "chat/completions",
        told,
        top_logprobs=top,
        forced=forced,
        has_functions=has_functions,
    )
