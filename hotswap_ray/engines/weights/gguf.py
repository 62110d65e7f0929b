"""Where weights come from: a model's ``source`` for llama.cpp is a GGUF file or a known name."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from hotswap_ray.core.errors import EngineLoadFailed
from hotswap_ray.engines.weights import GEMMA

KEY = b"tokenizer.chat_template"
TEMPLATE_KEY = struct.pack("<Q", len(KEY)) + KEY
"""As it stands in a file, after its length: longer keys begin with the same words."""
STRING = 8
"""How GGUF says that a value is a string."""


def resolve_source(source: str | None, cache_dir: Path | None = None) -> Path:
    """Turn a model's ``source`` into a GGUF file that exists.

    Args:
        source: A path, or a name as in ``weights.gemma``.
        cache_dir: Where made files are kept; default ``default_cache_dir()``.

    Returns:
        The path of a file that begins as a GGUF file does.

    Raises:
        EngineLoadFailed: There is no such file, or it is not GGUF, or it cannot be made;
            the message names the path and what to do.
    """
    if not source:
        raise EngineLoadFailed(f"a llama.cpp model needs a source: a .gguf file or {GEMMA}")
    if source.partition(":")[0] == GEMMA:
        # Only here: who serves files of their own needs no code that writes other ones.
        from hotswap_ray.engines.weights import gemma

        path = gemma.resolve(source, cache_dir)
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
    return chat_template(path) is not None


def chat_template(path: Path) -> str | None:
    """The chat template that a GGUF file brings; ``None`` if it brings none."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # Parsing 262,144 tokens takes seconds; the key is unique and near the beginning.
        at = data.find(TEMPLATE_KEY, 0, 128 * 2**20)
        if at < 0:
            return None
        # GGUF: a key is followed by the kind of its value, and a string by its length before it.
        begin = at + len(TEMPLATE_KEY) + struct.calcsize("<IQ")
        kind, length = struct.unpack("<IQ", data[at + len(TEMPLATE_KEY) : begin])
        return data[begin : begin + length].decode(errors="replace") if kind == STRING else ""
