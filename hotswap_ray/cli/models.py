"""``hotswap models``: load, unload, sleep and wake while everything else serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from hotswap_ray.cli import output
from hotswap_ray.cli.output import NAMESPACE, Address, AsJson, Namespace
from hotswap_ray.cli.show import MODEL_COLUMNS, model_rows
from hotswap_ray.core.errors import ConfigError

app = typer.Typer(help="List, load, unload, sleep, wake and probe models.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model id.", show_default=False)]


@app.command("list")
def list_models(
    as_json: AsJson = False, address: Address = None, namespace: Namespace = NAMESPACE
) -> None:
    """Every known model with its state."""
    with output.arbiter(address, namespace) as arbiter:
        rows = arbiter.status()["models"]
    if as_json:
        output.emit_json(rows)
    else:
        output.emit_table("models", MODEL_COLUMNS, model_rows(rows))


@app.command()
def load(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FILE",
            help="Model id, or a YAML file with models that the configuration does not have.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Load a model beside those that serve; returns when it answers."""
    specs: dict[str, dict[str, Any] | None] = {model: None}
    if model.endswith((".yaml", ".yml")):
        specs = _read(Path(model))
    with output.arbiter(address, namespace) as arbiter:
        rows = [arbiter.load(name, spec) for name, spec in specs.items()]
    _emit(rows, as_json)


@app.command()
def unload(
    model: Model,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Let a model's requests end and remove it; refused while a task needs it."""
    with output.arbiter(address, namespace) as arbiter:
        _emit([arbiter.unload(model)], as_json)


@app.command()
def sleep(
    model: Model,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Give a model's memory back but keep it at hand, if its engine can."""
    with output.arbiter(address, namespace) as arbiter:
        _emit([arbiter.sleep(model)], as_json)


@app.command()
def wake(
    model: Model,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Wake a model that sleeps."""
    with output.arbiter(address, namespace) as arbiter:
        _emit([arbiter.wake(model)], as_json)


@app.command()
def probe(
    model: Model,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = NAMESPACE,
) -> None:
    """Find out what a loaded model can do by asking it; once per load, then it is known."""
    with output.arbiter(address, namespace) as arbiter:
        report = arbiter.probe(model)
    if as_json:
        output.emit_json(report)
        return
    columns = ("capability", "declared", "probed", "detail")
    words = {True: "yes", False: "no", None: "not measured"}
    rows = [
        (row["name"], words[row["declared"]], words[row["supported"]], row["detail"])
        for row in report["probes"]
    ]
    output.emit_table(f"{model}, generation {report['generation']}", columns, rows)


def _read(path: Path) -> dict[str, dict[str, Any] | None]:
    """Models of a file: under ``models:`` as in a configuration, or one with an ``id``."""
    from hotswap_ray.config.checks import parse_model

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    models = data.get("models") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(data.get("id"), str):
        models = {data["id"]: data}
    if not isinstance(models, dict) or not models:
        raise ConfigError(f"{path}: expected models: as in a configuration, or one model with id:")
    for name, spec in models.items():
        if not isinstance(spec, dict):
            raise ConfigError(f"{path}: models.{name}: expected a mapping")
        parse_model(str(name), spec)  # all of them, before the first is loaded
    return models


def _emit(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        output.emit_json(rows[0] if len(rows) == 1 else rows)
        return
    for row in rows:
        generation = f", generation {row['generation']}" if row["generation"] else ""
        memory = f", {size}" if (size := output.mib(row["memory_bytes"])) else ""
        output.emit(f"{row['model']}: {row['state']}{generation}{memory}")
