"""Write a GGUF file with fewer layers or another quantisation.

The ``gguf`` package quantises, but its reader makes several Python objects of each of
262,144 tokens, ten seconds of work; here the metadata is copied as bytes instead.
The format is a header, key-value pairs, tensor descriptions and aligned tensor data:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def rewrite(base: Path, target: Path, drop: tuple[int, ...], quantization: str | None) -> None:
    """Write the model in ``base`` without some layers, requantised if asked.

    Args:
        base: A GGUF file of version 2 or 3, little-endian.
        target: The file to write.
        drop: Layers to leave out, counted from 0; the others are renumbered.
        quantization: Name of a ``gguf.GGMLQuantizationType`` for all matrices, or ``None``.

    Raises:
        ValueError: The file is cut short or of another version, or has no such layers.
    """
    with base.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _rewrite(data, target, drop, quantization)
        except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
            raise ValueError(f"{base} is damaged: {error}") from error


def _rewrite(
    data: mmap.mmap, target: Path, drop: tuple[int, ...], quantization: str | None
) -> None:
    version, tensor_count, pair_count = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version} is not known")
    at = 24
    pairs: dict[str, tuple[int, int, int]] = {}  # key: where it, its value and the next begin
    for _ in range(pair_count):
        key, value = _string(data, at)
        end = _skip(data, value + 4, _u32(data, value))
        pairs[key], at = (at, value, end), end
    blocks = _block_count(data, pairs)
    layers = [layer for layer in range(blocks) if layer not in drop]
    if not layers or any(layer >= blocks for layer in drop):
        raise ValueError(f"cannot drop the layers {drop}: the model has {blocks} layers")
    meta = b"".join(_pair(data, key, span, blocks, layers) for key, span in pairs.items())

    alignment = 32
    if "general.alignment" in pairs:
        alignment = _u32(data, pairs["general.alignment"][1] + 4)
    tensors = []
    for _ in range(tensor_count):
        name, at = _string(data, at)
        dims = struct.unpack_from(f"<{_u32(data, at)}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * len(dims))
        at += 4 + 8 * len(dims) + 12
        tensors.append((name, dims, kind, offset))
    start = at + -at % alignment

    head, body_size = b"", 0
    bodies: list[Any] = []
    for name, dims, kind, offset in tensors:
        if block := _BLOCK.match(name):
            if int(block[1]) in drop:
                continue
            name = f"blk.{layers.index(int(block[1]))}.{block[2]}"
        body, kind = _tensor(data, start + offset, dims, kind, quantization)
        head += _packed(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, body_size)
        body_size += len(body) + -len(body) % alignment
        bodies.append(body)
    with target.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", version, len(bodies), pair_count) + meta + head)
        for body in bodies:
            out.write(bytes(-out.tell() % alignment))
            out.write(body)
        out.write(bytes(-out.tell() % alignment))
    bodies.clear()


def _block_count(data: mmap.mmap, pairs: dict[str, tuple[int, int, int]]) -> int:
    for key, (_, value, _) in pairs.items():
        if key.endswith(".block_count"):
            return _u32(data, value + 4)
    raise ValueError("the file does not say how many layers the model has")


def _pair(
    data: mmap.mmap, key: str, span: tuple[int, int, int], blocks: int, layers: list[int]
) -> bytes:
    """The bytes of one key and value, with what is said per layer cut to the kept layers."""
    begin, value, end = span
    if key.endswith(".block_count"):
        return data[begin:value] + struct.pack("<II", _UINT32, len(layers))
    if _u32(data, value) == _ARRAY:
        inner, count = struct.unpack_from("<IQ", data, value + 4)
        if count == blocks and inner in _SIZES:
            size, first = _SIZES[inner], value + 16
            items = (data[first + size * layer : first + size * (layer + 1)] for layer in layers)
            return data[begin : value + 8] + struct.pack("<Q", len(layers)) + b"".join(items)
    return data[begin:end]


def _tensor(
    data: mmap.mmap, begin: int, dims: tuple[int, ...], kind: int, quantization: str | None
) -> tuple[Any, int]:
    """The bytes of a tensor and their type; vectors are never requantised."""
    import gguf
    import numpy

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    row = dims[0] // block * size
    rows = 1
    for dim in dims[1:]:
        rows *= dim
    if begin + row * rows > len(data):
        raise ValueError("the file is cut short")
    raw = data[begin : begin + row * rows]
    if quantization is None or len(dims) < 2:
        return raw, kind
    source, target_kind = gguf.GGMLQuantizationType(kind), gguf.GGMLQuantizationType[quantization]
    matrix = numpy.frombuffer(raw, dtype=numpy.uint8).reshape(rows, row)
    if source in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        matrix = matrix.view(numpy.float32 if size == 4 else numpy.float16)
    # In slices of rows: the embedding as floats would take gigabytes.
    slices = [
        gguf.quants.quantize(gguf.quants.dequantize(part, source), target_kind)
        for part in numpy.array_split(matrix, rows // 8192 + 1)
    ]
    return numpy.concatenate(slices).tobytes(), int(target_kind)


def _skip(data: mmap.mmap, at: int, kind: int) -> int:
    """The end of the value of type ``kind`` that begins at ``at``."""
    if kind == _STRING:
        return at + 8 + _u64(data, at)
    if kind != _ARRAY:
        return at + _SIZES[kind]
    inner, count = _u32(data, at), _u64(data, at + 4)
    at += 12
    if inner in _SIZES:
        return at + _SIZES[inner] * count
    for _ in range(count):
        at = _skip(data, at, inner)
    return at


def _u32(data: mmap.mmap, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _u64(data: mmap.mmap, at: int) -> int:
    return int(struct.unpack_from("<Q", data, at)[0])


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    end = at + 8 + _u64(data, at)
    return data[at + 8 : end].decode(), end


def _packed(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw
