"""Golden sets: prompts whose answers can be checked, from a task's configuration and files.

A file is a YAML list or, when it ends in ``.jsonl`` or ``.ndjson``, one JSON object a line.
Each entry has the fields of ``GoldenPrompt``: ``prompt`` or ``messages``, and optionally
``max_tokens``, ``stop``, ``check`` and ``weight``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from hotswap_ray.config import yaml as config_yaml
from hotswap_ray.config.checks import explain
from hotswap_ray.config.yaml import Document, dotted
from hotswap_ray.core.errors import ConfigError, InvalidRequest
from hotswap_ray.core.spec.golden import GoldenPrompt
from hotswap_ray.core.spec.task import TaskSpec

JSON_LINES = (".jsonl", ".ndjson")


def read_golden_set(path: Path) -> tuple[GoldenPrompt, ...]:
    """The prompts of a file.

    Args:
        path: YAML list or JSON lines, UTF-8; ``~`` is the home of who reads.

    Raises:
        ConfigError: Every problem, one a line, with file and line.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    return parse_golden_set(text, str(path))


def parse_golden_set(text: str, name: str) -> tuple[GoldenPrompt, ...]:
    r"""The prompts of a text, checked as ``read_golden_set`` does.

    Args:
        text: The content.
        name: File name for messages; its ending tells JSON lines from YAML.

    Example:
        >>> parse_golden_set('{"prompt": "2+2="}\n', "sums.jsonl")[0].prompt
        '2+2='
    """
    is_lines = name.endswith(JSON_LINES)
    document = _json_lines(text) if is_lines else config_yaml.parse(text, None)
    prompts: list[GoldenPrompt] = []
    if isinstance(document.data, list) and document.data:
        for number, entry in enumerate(document.data):
            try:
                prompts.append(GoldenPrompt.model_validate(entry))
            except ValidationError as error:
                for path, sentence in explain(error, GoldenPrompt):
                    document.add((number, *path), sentence)
    elif not document.problems:
        document.add((), "expected a list of prompts with at least one entry")
    if document.problems:
        raise ConfigError("\n".join(problem.render(name) for problem in sorted(document.problems)))
    return tuple(prompts)


def golden_prompts(task: TaskSpec) -> dict[str, GoldenPrompt]:
    """All prompts of a task by key, of its configuration and its file; the same one counts once.

    Raises:
        ConfigError: The file cannot be read or used.
    """
    from_file = read_golden_set(Path(task.golden_file)) if task.golden_file else ()
    return keyed(task.id, (*task.golden, *from_file))


def given_prompts(task: str, docs: Iterable[Any]) -> dict[str, GoldenPrompt]:
    """Prompts by key that a caller sent as plain data.

    Raises:
        InvalidRequest: One is malformed.
    """
    prompts = []
    for number, doc in enumerate(docs):
        try:
            prompts.append(GoldenPrompt.model_validate(doc))
        except ValidationError as error:
            path, sentence = next(explain(error, GoldenPrompt))
            raise InvalidRequest(f"{dotted(('prompts', number, *path))}: {sentence}") from None
    if not prompts:
        raise InvalidRequest("prompts is empty")
    return keyed(task, prompts)


def keyed(task: str, prompts: Iterable[GoldenPrompt]) -> dict[str, GoldenPrompt]:
    """Prompts by ``golden_key``; of equal ones the first."""
    by_key: dict[str, GoldenPrompt] = {}
    for prompt in prompts:
        by_key.setdefault(golden_key(task, prompt), prompt)
    return by_key


def golden_key(task: str, prompt: GoldenPrompt) -> str:
    """What a prompt is known by in results, run after run: 16 hexadecimal digits.

    It depends on everything but the weight, so results under one key are comparable.

    Example:
        >>> from hotswap_ray.core.spec.golden import GoldenPrompt
        >>> light, heavy = GoldenPrompt(prompt="2+2="), GoldenPrompt(prompt="2+2=", weight=5)
        >>> golden_key("sums", light) == golden_key("sums", heavy) != golden_key("maths", light)
        True
    """
    doc = [task, prompt.model_dump(mode="json", exclude={"weight"})]
    return hashlib.sha256(orjson.dumps(doc, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _json_lines(text: str) -> Document:
    document = Document(data=[])
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        document.lines[(len(document.data),)] = line
        try:
            document.data.append(orjson.loads(row))
        except orjson.JSONDecodeError as error:
            document.add((len(document.data),), f"not valid JSON: {error}")
    return document
