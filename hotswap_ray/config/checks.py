"""What is wrong with a configuration, in one sentence each.

These checks read plain data, before it is validated and even when it is malformed, so that
one run reports everything: names that must exist, engine options, and what pydantic found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hotswap_ray.config import docs as config_docs
from hotswap_ray.config import yaml as config_yaml
from hotswap_ray.core.answers.checkers import find_checker
from hotswap_ray.core.errors import ConfigError, NotFound
from hotswap_ray.core.names import NAME_PATTERN, did_you_mean
from hotswap_ray.core.spec.task import ModelSpec
from hotswap_ray.engines.base import load_engine_class

Located = tuple[config_yaml.Path, str]


def references(data: Mapping[str, Any]) -> Iterator[Located]:
    """Names that must exist elsewhere in the file; tolerates data that is malformed."""
    models, tasks = mapping(data.get("models")), mapping(data.get("tasks"))
    schedules = mapping(data.get("schedules"))
    sections = (("models", models), ("tasks", tasks), ("schedules", schedules))
    for section, entries in sections:
        for key, entry in entries.items():
            if mapping(entry).get("id", key) != key:
                yield (section, key, "id"), f"the key is the id; leave it out or write {key!r}"
    if "auto" in models:
        yield ("models", "auto"), "in requests, auto means that the arbiter chooses; rename it"
    for key, task in tasks.items():
        names = {role: mapping(task).get(role) for role in ("model", "fallback")}
        for role, name in names.items():
            if isinstance(name, str) and name not in models:
                yield ("tasks", key, role), f"no model {name!r}{did_you_mean(name, models)}"
        candidates = mapping(mapping(task).get("autoswap")).get("candidates")
        for name in candidates if isinstance(candidates, list) else ():
            if isinstance(name, str) and name not in models:
                yield (
                    ("tasks", key, "autoswap", "candidates"),
                    f"no model {name!r}{did_you_mean(name, models)}",
                )
        if names["fallback"] is not None and names["fallback"] == names["model"]:
            yield ("tasks", key, "fallback"), "is the task's own model; name another"
    for key, schedule in schedules.items():
        for number, swap in enumerate(_items(mapping(schedule).get("swaps"))):
            for kind, declared in (("task", tasks), ("model", models)):
                name = mapping(swap).get(kind)
                if isinstance(name, str) and name not in declared:
                    yield (
                        ("schedules", key, "swaps", number, kind),
                        f"no {kind} {name!r}{did_you_mean(name, declared)}",
                    )
    default = data.get("default_task")
    if isinstance(default, str) and default and default not in tasks:
        yield ("default_task",), f"no task {default!r}{did_you_mean(default, tasks)}"


def engine_problems(data: Mapping[str, Any]) -> Iterator[Located]:
    """Engines that do not exist and options that they refuse."""
    for key, model in mapping(data.get("models")).items():
        name, options = mapping(model).get("engine"), mapping(model).get("options", {})
        if not isinstance(name, str) or not isinstance(options, Mapping):
            continue  # the schema reports it
        try:
            engine = load_engine_class(name)
            engine.Options.model_validate(options)
        except NotFound as error:
            yield ("models", key, "engine"), error.message
        except (ImportError, AttributeError) as error:
            yield ("models", key, "engine"), f"cannot be imported: {error}"
        except ValidationError as error:
            for path, text in explain(error, engine.Options):
                yield ("models", key, "options", *path), text


def checker_problems(data: Mapping[str, Any]) -> Iterator[Located]:
    """Checks of kind ``callable`` whose function cannot be found."""
    for key, task in mapping(data.get("tasks")).items():
        checks, golden = mapping(task).get("checks"), mapping(task).get("golden")
        located: list[tuple[config_yaml.Path, Any]] = [
            *((("checks", i), entry) for i, entry in enumerate(_items(checks))),
            *(
                (("golden", i, "check"), mapping(entry).get("check"))
                for i, entry in enumerate(_items(golden))
            ),
        ]
        for path, check in located:
            name = mapping(check).get("value")
            if mapping(check).get("kind") != "callable" or not isinstance(name, str):
                continue  # the schema reports it
            try:
                find_checker(name)
            except NotFound as error:
                yield ("tasks", key, *path, "value"), error.message


def explain(error: ValidationError, root: type[BaseModel]) -> Iterator[Located]:
    """Pydantic's errors as our sentences; values are left out because they may be secret."""
    for item in error.errors(include_input=False, include_url=False):
        if item["type"] != "references":  # `references` has reported them, with their lines
            yield item["loc"], _sentence(item, root)


def problems(error: ValidationError, root: type[BaseModel]) -> str:
    """Pydantic's errors as one sentence that names each field."""
    return "; ".join(
        f"{config_yaml.dotted(path)}: {text}" if path else text
        for path, text in explain(error, root)
    )


def parse_model(model: str, data: Mapping[str, Any]) -> ModelSpec:
    """A model that is given at run time.

    Raises:
        ConfigError: Each field that is wrong, and why.
    """
    try:
        return ModelSpec.model_validate({**data, "id": model})
    except ValidationError as error:
        raise ConfigError(f"model {model!r}: {problems(error, ModelSpec)}") from None


def _sentence(item: ErrorDetails, root: type[BaseModel]) -> str:
    path = item["loc"]
    match item["type"]:
        case "extra_forbidden":
            keys = config_docs.known_keys(root, path[:-1])
            return "unknown key" + (
                did_you_mean(str(path[-1]), keys) or f"; known: {', '.join(keys)}"
            )
        case "missing":
            return "missing; it is required"
        case "string_pattern_mismatch" if item["ctx"]["pattern"] == NAME_PATTERN:
            return "a name is 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first"
        case "dict_type" | "model_type":
            return "expected a mapping"
        case "value_error":
            return item["msg"].removeprefix("Value error, ")
        case _:
            return item["msg"].replace("Input should", "should")


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}
