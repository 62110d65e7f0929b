"""Recorded results for a replay: one file in, a table per task out, bad lines named."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hotswap_ray.core.errors import ConfigError

REQUIRED = ("task_type", "prompt_id", "model", "quality")
OPTIONAL = ("latency_ms", "cost_usd", "tokens_in", "tokens_out")
Array = NDArray[np.float64]
Row = tuple[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Results of every model at every prompt.

    Attributes:
        models: Model ids, sorted; the columns of the tables.
        values: Per task and column name a prompts x models table; NaN where an optional
            value is missing. Quality has no gaps.
        skipped: Prompts left out because a model's result is missing.
    """

    models: tuple[str, ...]
    values: Mapping[str, Mapping[str, Array]]
    skipped: int

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task ids, sorted."""
        return tuple(self.values)


def read(path: str | Path) -> Recorded:
    """Read recorded results.

    Args:
        path: CSV (also ``.csv.gz``) or Parquet with the columns ``task_type, prompt_id,
            model, quality`` and optionally ``latency_ms, cost_usd, tokens_in, tokens_out``.
            Other columns are ignored.

    Raises:
        ConfigError: The file cannot be read or a value is wrong; the line is named.
    """
    path = Path(path)
    try:
        rows = _parquet(path) if path.suffix == ".parquet" else _csv(path)
        return _recorded(path, rows)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason}") from None


def _csv(path: Path) -> Iterator[Row]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _check_columns(path, reader.fieldnames or ())
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    columns = len(reader.fieldnames or ())
                    raise ConfigError(f"{where}: has not the header's {columns} columns")
                yield where, row
        except csv.Error as error:
            raise ConfigError(f"{path}, line {reader.line_num}: is no CSV: {error}") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow; install it") from None
    except ValueError as error:  # pyarrow's own errors are of this kind
        raise ConfigError(f"{path}: is no Parquet: {error}") from None
    _check_columns(path, [str(column) for column in frame.columns])
    names = [name for name in (*REQUIRED, *OPTIONAL) if name in frame.columns]
    for number, row in enumerate(frame[names].itertuples(index=False), start=1):
        texts = ("" if pd.isna(value) else str(value) for value in row)
        yield f"{path}, row {number}", dict(zip(names, texts, strict=True))


def _check_columns(path: Path, columns: Iterable[str]) -> None:
    names = list(columns)
    if missing := [name for name in REQUIRED if name not in names]:
        raise ConfigError(
            f"{path}, line 1: column {missing[0]} is missing; found {', '.join(names) or 'nothing'}"
        )


def _recorded(path: Path, rows: Iterator[Row]) -> Recorded:
    tasks: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
    models: set[str] = set()
    for where, row in rows:
        task, prompt, model = (row[name].strip() for name in REQUIRED[:3])
        for name, value in zip(REQUIRED, (task, prompt, model), strict=False):
            if not value:
                raise ConfigError(f"{where}: {name} is empty")
        results = tasks.setdefault(task, {}).setdefault(prompt, {})
        if model in results:
            raise ConfigError(f"{where}: a second result of {model} for prompt {prompt} of {task}")
        results[model] = (
            _number(where, "quality", row["quality"], 1.0),
            *(
                _number(where, name, row.get(name, "").strip() or "nan", math.inf)
                for name in OPTIONAL
            ),
        )
        models.add(model)
    if not tasks:
        raise ConfigError(f"{path}: holds no results")
    names = sorted(models)
    prompts = {
        task: [
            [results[model] for model in names]
            for _, results in sorted(by_prompt.items())
            if len(results) == len(names)
        ]
        for task, by_prompt in sorted(tasks.items())
    }
    skipped = sum(len(by_prompt) for by_prompt in tasks.values()) - sum(map(len, prompts.values()))
    values = {}
    for task, complete in prompts.items():
        if not complete:
            continue
        table = np.array(complete)
        values[task] = {name: table[:, :, n] for n, name in enumerate(("quality", *OPTIONAL))}
    if not values:
        raise ConfigError(f"{path}: no prompt has a result of all {len(names)} models")
    return Recorded(tuple(names), values, skipped)


def _number(where: str, name: str, text: str, most: float) -> float:
    optional = name != "quality"
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{where}: {name} is {text.strip()!r}, no number") from None
    if optional and math.isnan(value):
        return math.nan
    if not 0 <= value <= most or math.isinf(value):
        limit = "at least 0 and finite" if optional else "in [0, 1]"
        raise ConfigError(f"{where}: {name} is {text.strip()}; it must be {limit}")
    return value
