"""The chat template: what a model's own knows, and the one for models that have none."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta

BASE_MODEL_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}Q: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}A: {{ message['content'] }}\n"
    "{% else %}{{ message['content'] }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
"""How messages are written for a base model, one that knows no chat format."""
BASE_MODEL_STOP = "\nQ:"


@lru_cache(maxsize=64)
def template_uses(template: str, name: str) -> bool:
    """Whether a chat template looks at what it is given under a name.

    A template that never looks at ``tools`` writes a prompt without them, and llama.cpp then
    answers as if none had been offered.

    Args:
        template: Jinja.
        name: For example ``tools`` or ``reasoning_effort``.

    Example:
        >>> template_uses("{% if tools %}{{ tools | tojson }}{% endif %}", "tools")
        True
        >>> template_uses("{# no tools #}{{ messages[0].content }}", "tools")
        False
    """
    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError:  # llama.cpp's Jinja knows more than this one, `generation` say
        return re.search(rf"\b{re.escape(name)}\b", template) is not None
    return name in meta.find_undeclared_variables(parsed)


def takes_developer(template: str) -> bool:
    """Whether a template tells the role ``developer`` from others; few do.

    Example:
        >>> takes_developer(BASE_MODEL_TEMPLATE)
        False
    """
    return "developer" in template


def as_plain_turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages for a template that knows questions and answers only.

    Calls of tools become part of the answer, as text, and their results lines of their own: such
    a template would leave the calls out.

    Example:
        >>> call = {"function": {"name": "add", "arguments": "[2, 2]"}}
        >>> turns = as_plain_turns([
        ...     {"role": "assistant", "content": "", "tool_calls": [call]},
        ...     {"role": "tool", "content": "4"},
        ... ])
        >>> [(turn["role"], turn["content"]) for turn in turns]
        [('assistant', 'add([2, 2])'), ('system', 'Result: 4')]
    """
    turns = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "system", f"Result: {content}"
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            written = f"{function.get('name')}({function.get('arguments') or ''})"
            content = f"{content}\n{written}" if content else written
        turns.append({"role": role, "content": content})
    return turns
