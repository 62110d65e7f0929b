"""A call that must be made: asked of llama.cpp as JSON of one form, and turned back into a call.

llama.cpp holds a model to a call only where it knows the form of the template's calls, and says
nothing where it does not. A schema holds for every template.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from hotswap_ray.engines.body.tools import ToolWish

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*')


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """One call of one of some tools.

    Attributes:
        tools: Those that may be called; at least one.
    """

    tools: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, wish: ToolWish) -> ForcedCall | None:
        """The call that a client insists on, or ``None``."""
        return cls(wish.tools) if wish.is_required else None

    def schema(self) -> dict[str, Any]:
        """What the model's text has to meet: the arguments of the only tool, or name and arguments.

        Example:
            >>> f = {"function": {"name": "f", "parameters": {"type": "object"}}}
            >>> ForcedCall((f,)).schema()
            {'type': 'object'}
        """
        if len(self.tools) == 1:
            return _parameters(self.tools[0])
        forms, parts = [], {}
        for index, tool in enumerate(self.tools):
            # A schema's own references begin at its root, which is elsewhere now.
            parts[f"tool{index}"] = _moved(_parameters(tool), f"#/$defs/tool{index}")
            forms.append(
                {
                    "type": "object",
                    "properties": {
                        "name": {"const": tool["function"]["name"]},
                        "arguments": {"$ref": f"#/$defs/tool{index}"},
                    },
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
            )
        return {"anyOf": forms, "$defs": parts}

    def function(self, text: str) -> dict[str, str] | None:
        """Name and arguments of the call that the model wrote.

        Args:
            text: All of its answer, which may have been cut off.

        Returns:
            ``None`` if it was cut off before the name was said.

        Example:
            >>> f, g = {"function": {"name": "f"}}, {"function": {"name": "g"}}
            >>> ForcedCall((f, g)).function('{"name": "g", "arguments": {"a": 1}}')
            {'name': 'g', 'arguments': '{"a": 1}'}
            >>> ForcedCall((f,)).function('{"a": 1}')
            {'name': 'f', 'arguments': '{"a": 1}'}
        """
        if len(self.tools) == 1:
            return {"name": self.tools[0]["function"]["name"], "arguments": text.strip()}
        if (head := _HEAD.match(text)) is None:
            return None
        rest = text[head.end() :].rstrip()
        try:
            _, end = json.JSONDecoder().raw_decode(rest)
        except ValueError:  # cut off within the arguments
            end = len(rest)
        return {"name": json.loads(head[1]), "arguments": rest[:end]}


def _parameters(tool: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments; without one it takes none."""
    parameters = tool["function"].get("parameters")
    return parameters or {"type": "object", "properties": {}, "additionalProperties": False}


def _moved(node: Any, to: str) -> Any:
    """A schema whose references to itself lead to its new place."""
    if isinstance(node, list):
        return [_moved(value, to) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: to + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, to)
        for key, value in node.items()
    }
