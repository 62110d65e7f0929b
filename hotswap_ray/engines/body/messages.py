"""The messages of a chat: roles, content in parts, and nulls."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hotswap_ray.core.errors import InvalidRequest
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.body.refusals import does_not

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts that are text, and the key it stands under."""
OTHER_PARTS = {
    "image_url": "images",
    "input_image": "images",
    "image": "images",
    "input_audio": "audio",
    "audio_url": "audio",
    "file": "files",
    "input_file": "files",
    "video_url": "videos",
}
"""Kinds of parts that are not, and what a model takes that can read one."""
EVERY_KIND = frozenset(OTHER_PARTS.values())


def read_messages(
    spec: ModelSpec, messages: Any, *, takes: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The messages with content that a template can write.

    Args:
        spec: The model that was asked.
        messages: ``messages`` of the body.
        takes: What it can read beside text, as in ``OTHER_PARTS``; such parts stay as they are.

    Returns:
        New messages without nulls. Content is a string, its parts joined by line ends; a list only
        where one of ``takes`` is in it.

    Raises:
        InvalidRequest: A message is none, or has a part that the model cannot read.

    Example:
        >>> spec = ModelSpec(id="m", engine="simulated")
        >>> parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        >>> read_messages(spec, [{"role": "user", "content": parts, "name": None}])
        [{'role': 'user', 'content': 'a\\nb'}]
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("chat completions need messages, a list that is not empty")
    return [
        _read(spec, f"messages[{index}]", message, takes) for index, message in enumerate(messages)
    ]


def _read(spec: ModelSpec, where: str, message: Any, takes: Collection[str]) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"{where}: each message needs a role and content")
    role = message["role"]
    if role not in ROLES:
        raise InvalidRequest(f"{where}.role must be one of {', '.join(ROLES)}, not {role!r}")
    told = {name: value for name, value in message.items() if value is not None}
    content = told.pop("content", "")
    if isinstance(content, list):
        content = _parts(spec, f"{where}.content", content, takes)
    elif not isinstance(content, str):
        raise InvalidRequest(f"{where}.content must be a string or a list of parts")
    return {"role": role, "content": content, **{k: v for k, v in told.items() if k != "role"}}


def _parts(spec: ModelSpec, where: str, parts: list[Any], takes: Collection[str]) -> Any:
    texts, has_others = [], False
    for index, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in TEXT_PARTS:
            text = part.get(TEXT_PARTS[kind])
            if not isinstance(text, str):
                raise InvalidRequest(f"{where}[{index}] needs {TEXT_PARTS[kind]}, a string")
            texts.append(text)
        elif kind in OTHER_PARTS:
            if OTHER_PARTS[kind] not in takes:
                raise does_not(spec, f"take {OTHER_PARTS[kind]}")
            has_others = True
        else:
            raise InvalidRequest(f"{where}[{index}] has a type that is not known: {kind!r}")
    return parts if has_others else "\n".join(texts)
