"""Files that are made once and kept: in ``$HOTSWAP_CACHE`` (default ``~/.cache/hotswap_ray``).

They are written under a lock and by an atomic rename, so many processes may ask at once and
none ever sees half a file.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from hotswap_ray.core.errors import EngineLoadFailed


def default_cache_dir() -> Path:
    """``$HOTSWAP_CACHE``, or ``~/.cache/hotswap_ray``."""
    return Path(os.environ.get("HOTSWAP_CACHE") or "~/.cache/hotswap_ray").expanduser()


def once(target: Path, write: Callable[[Path], Any]) -> Path:
    """Make a file unless it exists; one process at a time, all or nothing.

    Args:
        target: The file; its folder is made too.
        write: Writes the whole file to the path that it gets.

    Returns:
        The target, which exists.

    Raises:
        EngineLoadFailed: It cannot be written; the message names the path and what to do.
    """
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


def trim_memory() -> None:
    """Give freed heap back to the system, so that measured memory is used memory."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
