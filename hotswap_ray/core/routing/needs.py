"""What a request needs of a model, and whether a loaded one has it: fit comes before choice.

A prompt's length is only bounded here, since no tokenizer is at hand: a token of text has hardly
more than ``CHARACTERS`` characters on average. The engine counts exactly, and refuses with both
numbers what this let through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hotswap_ray.core.outcome import Endpoint
from hotswap_ray.core.routing.target import Target

CHARACTERS = 6
IMAGES = frozenset({"image_url", "input_image", "image"})


@dataclass(frozen=True, slots=True)
class Needs:
    """What one request needs.

    Attributes:
        tokens: Fewest tokens its prompt can have.
        features: What it cannot do without: of tools, json, vision, logprobs, n.
        wishes: What may be left out: tools that need not be called.
    """

    tokens: int = 0
    features: tuple[str, ...] = ()
    wishes: tuple[str, ...] = ()

    def lacks(self, target: Target) -> list[str]:
        """The features that a model surely lacks; wishes not counted."""
        return [name for name in self.features if name in target.lacks]

    def fits(self, target: Target) -> bool:
        """Whether nothing speaks against a model, wishes included."""
        if target.context_tokens and self.tokens > target.context_tokens:
            return False
        return not any(name in target.lacks for name in (*self.features, *self.wishes))

    def may_go_to(self, target: Target) -> bool:
        """Whether a model can take it, if need be without what is only wished."""
        return replace(self, wishes=()).fits(target)

    def is_met_by(self, target: Target) -> bool:
        """Whether a model surely has all; what is not known of it does not count."""
        if self.tokens > target.context_tokens:
            return False
        return all(name in target.does for name in (*self.features, *self.wishes))


NOTHING = Needs()


def needs_of(endpoint: Endpoint, body: Mapping[str, Any]) -> Needs:
    """What a request needs.

    Args:
        endpoint: Where it was sent.
        body: OpenAI request.

    Example:
        >>> needs_of("chat/completions", {"messages": [], "tools": [{}], "n": 2})
        Needs(tokens=0, features=('n',), wishes=('tools',))
        >>> needs_of("completions", {"prompt": "word " * 600}).tokens
        500
    """
    features: list[str] = []
    wishes: list[str] = []
    number = body.get("n")
    if isinstance(number, int) and number > 1:
        features.append("n")
    if body.get("logprobs") not in (None, False):
        features.append("logprobs")
    if endpoint == "completions":
        return Needs(_prompt_tokens(body.get("prompt")), tuple(features))
    if _form(body.get("response_format")):
        features.append("json")
    choice = body.get("tool_choice", body.get("function_call"))
    if (body.get("tools") or body.get("functions")) and choice != "none":
        is_required = choice == "required" or isinstance(choice, Mapping)
        (features if is_required else wishes).append("tools")
    characters, has_images = _measure(body.get("messages"))
    if has_images:
        features.append("vision")
    return Needs(characters // CHARACTERS, tuple(features), tuple(wishes))


def _form(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") in ("json_object", "json_schema")


def _prompt_tokens(prompt: Any) -> int:
    """Of the longest of several prompts, each of which has the context for itself."""
    if isinstance(prompt, str):
        return len(prompt) // CHARACTERS
    if not isinstance(prompt, list) or not prompt:
        return 0
    if isinstance(prompt[0], int):
        return len(prompt)
    return max(map(_prompt_tokens, prompt))


def _measure(messages: Any) -> tuple[int, bool]:
    characters, has_images = 0, False
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            characters += len(content)
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict):
                    characters += len(part["text"]) if isinstance(part.get("text"), str) else 0
                    has_images = has_images or part.get("type") in IMAGES
    return characters, has_images
