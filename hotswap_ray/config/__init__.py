"""The YAML file as frozen values: what there is, what is refused, and where.

``load`` reads a file, ``loads`` a text. Both report every problem at once, one a line, as
``file.yaml:LINE: path: what is wrong``. Models and tasks themselves are in ``core/spec/task.py``;
the options of each engine are checked by the engine that is named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from hotswap_ray.config import docs as config_docs
from hotswap_ray.config import yaml as config_yaml
from hotswap_ray.config.checks import (
    checker_problems,
    engine_problems,
    explain,
    mapping,
    references,
)
from hotswap_ray.config.sections import (
    ClusterConfig,
    LearningConfig,
    ServerConfig,
    StoreConfig,
    SwapConfig,
)
from hotswap_ray.core.errors import ConfigError
from hotswap_ray.core.names import Name, Strict
from hotswap_ray.core.spec.autoswap import AutoswapSpec
from hotswap_ray.core.spec.schedule import ScheduleSpec
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec
from hotswap_ray.core.spec.webhook import WebhookSpec
from hotswap_ray.engines.base import BUILT_IN, load_engine_class


class Config(Strict):
    """One deployment: its models, its tasks and how both are run."""

    models: dict[str, ModelSpec] = Field(min_length=1, description="Models by id.")
    tasks: dict[str, TaskSpec] = Field(min_length=1, description="Tasks by id.")
    default_task: Name = Field(
        "", description="Task of requests that name none; the first task when absent."
    )
    server: ServerConfig = Field(default_factory=lambda: ServerConfig())
    swap: SwapConfig = Field(default_factory=lambda: SwapConfig())
    learning: LearningConfig = Field(default_factory=lambda: LearningConfig())
    autoswap: AutoswapSpec = Field(
        default_factory=lambda: AutoswapSpec(),
        description="How tasks get their models by themselves; a task may override each.",
    )
    webhooks: tuple[WebhookSpec, ...] = Field(
        (), description="Servers that are told of the phases of swaps."
    )
    schedules: dict[str, ScheduleSpec] = Field(
        default_factory=dict, description="Swaps at a time or again and again, by id."
    )
    store: StoreConfig = Field(default_factory=lambda: StoreConfig())
    cluster: ClusterConfig = Field(default_factory=lambda: ClusterConfig())

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """Give each model and task its key as id, and the first task as default."""
        if not isinstance(data, Mapping):
            return data
        filled = dict(data)
        for section in ("models", "tasks", "schedules"):
            if isinstance(entries := data.get(section), Mapping):
                filled[section] = {
                    key: {"id": key, **value} if isinstance(value, Mapping) else value
                    for key, value in entries.items()
                }
        if mapping(filled.get("tasks")) and not filled.get("default_task"):
            filled["default_task"] = next(iter(filled["tasks"]))
        return filled

    @model_validator(mode="after")
    def _referenced(self) -> Config:
        data = self.model_dump(include={"models", "tasks", "schedules", "default_task"})
        if problems := list(references(data)):
            text = "; ".join(
                f"{config_yaml.dotted(path)}: {sentence}" for path, sentence in problems
            )
            raise PydanticCustomError("references", "{text}", {"text": text})
        for task in self.tasks.values():
            task.autoswap_with(self.autoswap)  # raises where the two do not fit together
        return self


def load(path: Path, env: Mapping[str, str] | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: The YAML file, UTF-8.
        env: Variables for ``${NAME}``; the process environment when ``None``.

    Returns:
        The configuration, engine options checked too.

    Raises:
        ConfigError: The file cannot be read or used; every problem, one a line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    return loads(text, name=str(path), env=env)


def loads(text: str, *, name: str = "<config>", env: Mapping[str, str] | None = None) -> Config:
    """Check a configuration that is given as text, as ``load`` does; messages name it ``name``."""
    document = config_yaml.parse(text, os.environ if env is None else env)
    data, config = document.data, None
    if not isinstance(data, dict):
        if not document.problems:
            document.add((), "expected a mapping that has models: and tasks:")
    else:
        for path, sentence in chain(
            references(data), engine_problems(data), checker_problems(data)
        ):
            document.add(path, sentence)
        try:
            config = Config.model_validate(data)
        except ValidationError as error:
            reported = {problem.where for problem in document.problems}
            for path, sentence in explain(error, Config):
                # An unset variable is reported once, and not again as "no integer".
                if config_yaml.dotted(path) not in reported:
                    document.add(path, sentence)
    if document.problems or config is None:
        lines = (problem.render(name) for problem in sorted(set(document.problems)))
        raise ConfigError("\n".join(lines))
    return config


def describe_options() -> list[config_docs.Option]:
    """Every option of the file, in order: path, type, default, bounds, description."""
    return config_docs.describe(Config)


def describe_engines() -> dict[str, list[config_docs.Option]]:
    """What ``models.<id>.options`` may hold for each built-in engine."""
    return {
        name: config_docs.describe(load_engine_class(name).Options, "models.<id>.options.")
        for name in BUILT_IN
    }


def markdown() -> str:
    """All options as Markdown tables: the body of ``docs/configuration.md``."""
    engines = (
        config_docs.table(f"Options of the engine `{name}`", "", options)
        for name, options in describe_engines().items()
    )
    return "\n\n".join([*config_docs.tables(describe_options()), *engines]) + "\n"
