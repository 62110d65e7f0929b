"""The YAML file as frozen values: what there is, what is refused, and where.

``load`` reads a file, ``loads`` a text. Both report every problem at once, one a line, as
``file.yaml:LINE: path: what is wrong``. Models and tasks themselves are in ``core/spec/task.py``;
the options of each engine are checked by the engine that is named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
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
from hotswap_ray.config.sections import SwapConfig
from hotswap_ray.core.errors import ConfigError
from hotswap_ray.core.names import Name, Strict
from hotswap_ray.core.spec.autoswap import AutoswapSpec
from hotswap_ray.core.spec.schedule import ScheduleSpec
from hotswap_ray.core.spec.task import ModelSpec, TaskSpec
from hotswap_ray.core.spec.webhook import WebhookSpec
from hotswap_ray.engines.base import BUILT_IN, load_engine_class


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ServerConfig(Strict):
    """The HTTP endpoint."""

    host: str = Field(
        "127.0.0.1", min_length=1, max_length=255, description="Address to listen on."
    )
    port: int = Field(8000, ge=1, le=65_535, description="Port to listen on.")
    ingress_replicas: int = Field(
        2, ge=1, le=64, description="Processes that take requests; the count never scales."
    )
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="Bearer tokens clients may use; none leaves the data plane open."
    )
    admin_token: SecretStr | None = Field(
        None, description="Bearer token of /admin; required unless `host` is this machine only."
    )
    max_body_bytes: int = Field(
        8 * 2**20, ge=1024, le=2**30, description="Largest request body; beyond it 413."
    )
    first_byte_timeout_s: float = Field(
        60, ge=0.05, le=86_400, description="Longest wait for the first byte of an answer."
    )
    request_timeout_s: float = Field(
        600, ge=0.05, le=86_400, description="Longest whole answer, streaming included."
    )
    hold_timeout_s: float = Field(
        120, ge=0, le=3600, description="Longest a request waits while a swap holds its route."
    )
    max_held_requests: int = Field(
        256, ge=0, le=100_000, description="Requests held per ingress replica; beyond it 503."
    )
    max_in_flight: int = Field(
        1000, ge=1, le=100_000, description="Requests at work per ingress replica; beyond it 429."
    )

    @field_validator("api_keys", "admin_token", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        """An unset ``${TOKEN:-}`` means no token, never a token of length zero."""
        if isinstance(value, list | tuple):
            return [item for item in value if item != ""]
        return None if value == "" else value

    @model_validator(mode="after")
    def _guarded(self) -> ServerConfig:
        if self.admin_token is None and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} lets other machines reach /admin; set admin_token "
                "(for example ${HOTSWAP_ADMIN_TOKEN}) or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _ordered(self) -> ServerConfig:
        if self.first_byte_timeout_s > self.request_timeout_s:
            raise ValueError(
                f"first_byte_timeout_s {self.first_byte_timeout_s:g} exceeds "
                f"request_timeout_s {self.request_timeout_s:g}"
            )
        return self


class LearningConfig(Strict):
    """What is kept of each request."""

    flush_s: float = Field(1, ge=0.01, le=60, description="Longest an outcome waits for a batch.")
    half_life_requests: float = Field(
        500, ge=1, le=1e9, description="Requests after which evidence counts half."
    )
    retention_s: float = Field(
        30 * 86_400, ge=60, le=10 * 366 * 86_400, description="Age at which outcomes are deleted."
    )
    one_key_decides: bool = Field(
        False,
        description="Whether scores of one API key may bring about a swap; else two must agree.",
    )
    feedback_per_minute: int = Field(
        600, ge=1, le=10**6, description="Scores that one API key may give; beyond it 429."
    )
    check_timeout_s: float = Field(
        2, ge=0.05, le=60, description="Time one answer's checks may take; then it is not judged."
    )


class StoreConfig(Strict):
    """Where learnings, swaps and routes survive a restart."""

    url: str = Field(
        "sqlite:///~/.local/state/hotswap_ray/hotswap.sqlite",
        max_length=4096,
        repr=False,  # it may hold a password
        validate_default=True,
        description="sqlite:///PATH, or postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
    )

    @field_validator("url")
    @classmethod
    def _resolved(cls, url: str) -> str:
        scheme, separator, location = url.partition("://")
        if not separator or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
            raise ValueError(
                "expected sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
            )
        path = location.removeprefix("/")
        if not scheme.startswith("sqlite") or path in ("", ":memory:"):
            return url
        # Actors run in other directories than the caller.
        return f"{scheme}:///{Path(path).expanduser().absolute()}"


class ClusterConfig(Strict):
    """The Ray cluster to run on."""

    address: str | None = Field(
        None, max_length=512, description="Ray address, or auto; none starts Ray on this machine."
    )
    namespace: Name = Field("hotswap", description="Ray namespace of the actors.")
    ha_proxy: bool = Field(
        True, description="Set RAY_SERVE_ENABLE_HA_PROXY=1 when starting Ray: cheaper requests."
    )
    throughput_optimized: bool = Field(
        True, description="Set RAY_SERVE_THROUGHPUT_OPTIMIZED=1 when starting Ray."
    )


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
