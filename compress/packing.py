"""Tensors ↔ a small file: zeros in blocks are left out, what is left is coded by how often it occurs.

The format is documented, down to the byte, in docs/bundle.md. What is read back is equal to the bit, or an
error: everything that a file says of itself is checked before memory is spent on it.
"""

import json
import math
import struct
import zlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int8, UInt8

from winnow.compress import entropy, layout
from winnow.compress.layout import INDICES, SIDES

MAGIC = b"winnow1\n"
DTYPES = {"int8": 1, "uint8": 1, "int32": 4, "int64": 8, "float32": 4}
# A file of zeros alone can be small without bounds; nobody ships one that unpacks to more than this.
MOST_BYTES = 1 << 26
MOST_TIMES = 4096

_ZSTD_LEVEL = 19
_PREAMBLE = struct.Struct("<8sIII")  # magic, CRC-32 of all that follows it, header's bytes, unpacked
_CODERS = ("raw", "zstd", "rans")


def pack(
    tensors: Mapping[str, np.ndarray], groups: Mapping[str, str] | None = None, code: bool = True
) -> bytes:
    """Put tensors into one piece of bytes: a function of them alone.

    Args:
        tensors: by name; of the types in `DTYPES`.
        groups: what each belongs to, by name. Tensors of a group are coded together, by frequencies of their
            own, and `sizes` tells what a group takes. None: they are one group.
        code: whether streams are coded by Zstandard or rANS, where that is smaller; False leaves fixed-width
            values and indices.

    Raises:
        ValueError: if a tensor is of another type.
    """
    streams: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    listed = []
    for name, tensor in tensors.items():
        dtype, group = tensor.dtype.name, "" if groups is None else groups[name]
        if dtype not in DTYPES:
            raise ValueError(f"{name} is of type {dtype}, and not one of {', '.join(DTYPES)}")
        entry: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(tensor.shape)}
        if group:
            entry["group"] = group
        if dtype == "int8" and tensor.ndim > 1 and tensor.size:
            matrix = np.ascontiguousarray(tensor).reshape(len(tensor), -1)
            how = layout.choose(matrix, code)
            values = matrix.tobytes()
            if how.kind != "dense":
                index, values, kept = layout.sparse(matrix, how)
                entry |= {"index": how.kind, "block": list(how.block), "kept": kept, "symbols": len(index)}
                streams[group, how.kind].append(index)
            streams[group, "int8.0"].append(values)
        else:
            # Bytes of one significance side by side: the upper ones repeat.
            planes = np.ascontiguousarray(tensor.astype(tensor.dtype.newbyteorder("<"))).reshape(-1, 1)
            for number, plane in enumerate(planes.view(np.uint8).T):
                streams[group, f"{dtype}.{number}"].append(plane.tobytes())
        listed.append(entry)
    coded = [(key, *_coded(b"".join(parts), code)) for key, parts in streams.items()]
    header = {
        "tensors": listed,
        "streams": [
            {"group": group, "kind": kind, "coder": coder, "count": count, "bytes": len(content)}
            for (group, kind), coder, count, content, _ in coded
        ],
    }
    told = json.dumps(header, separators=(",", ":")).encode()
    tables = b"".join(struct.pack("<B", len(table) - 1) + table for *_, table in coded if table)
    unpacked = struct.pack("<I", len(told)) + told + tables
    packed = pa.Codec("zstd", _ZSTD_LEVEL).compress(unpacked, asbytes=True)
    behind = struct.pack("<II", len(packed), len(unpacked)) + packed + b"".join(c[3] for c in coded)
    return struct.pack("<8sI", MAGIC, zlib.crc32(behind)) + behind


def _coded(plain: bytes, code: bool) -> tuple[str, int, bytes, bytes]:
    """Give the coder that makes least of a stream, its symbols' number, the coded stream, and a table."""
    ways = [("raw", plain, b"")]
    if code and plain:
        ways.append(("zstd", pa.Codec("zstd", _ZSTD_LEVEL).compress(plain, asbytes=True), b""))
        symbols = np.frombuffer(plain, np.uint8)
        table = entropy.table(symbols)
        ways.append(("rans", entropy.encode(symbols, table), table))
    coder, content, table = min(ways, key=lambda way: len(way[1]) + len(way[2]))
    return coder, len(plain), content, table


class _Stream(NamedTuple):
    coder: str
    number: int
    content: bytes
    table: bytes


class _Header(NamedTuple):
    tensors: list[dict[str, Any]]
    streams: dict[tuple[str, str], _Stream]
    size: int


def _read(content: bytes) -> _Header:
    """Read the header and cut out the streams; every number in it holds, or it is an error."""
    if len(content) < _PREAMBLE.size or content[: len(MAGIC)] != MAGIC:
        raise ValueError("these are no packed tensors: the first bytes are not 'winnow1'")
    _, checksum, packed, unpacked = _PREAMBLE.unpack_from(content)
    if zlib.crc32(memoryview(content)[12:]) != checksum:
        raise ValueError("the checksum does not fit: the file is damaged")
    _require(packed <= len(content) - _PREAMBLE.size, "the header ends behind the file")
    room = max(MOST_BYTES, MOST_TIMES * len(content))
    _require(unpacked <= min(room, MOST_BYTES), f"the header is of {unpacked} bytes")
    start = _PREAMBLE.size + packed
    plain = _unzstd(content[_PREAMBLE.size : start], unpacked)
    _require(len(plain) >= 4, "the header is empty")
    (length,) = struct.unpack_from("<I", plain)
    _require(length <= len(plain) - 4, "the header's text ends behind it")
    try:
        header, tables = json.loads(plain[4 : 4 + length].decode()), plain[4 + length :]
    except RecursionError as error:
        raise ValueError("the header is nested without end") from error
    _require(isinstance(header, dict), "the header is no object")
    taken, streams = 0, {}
    for told in _list(header, "streams"):
        count, size = _whole(told, "count"), _whole(told, "bytes")
        taken += count
        _require(taken <= room, f"streams of more than {room} bytes in a file of {len(content)}")
        _require(size <= len(content) - start, "a stream ends behind the file")
        _require(told.get("coder") in _CODERS, f"the coder {told.get('coder')!r} is unknown")
        table = b""
        if told["coder"] == "rans":
            _require(len(tables) >= 1 and len(tables) >= 2 + tables[0], "a table ends behind the header")
            table, tables = tables[1 : 2 + tables[0]], tables[2 + tables[0] :]
        key = (_word(told, "group"), _word(told, "kind"))
        _require(key not in streams, f"the stream {key} is there twice")
        streams[key] = _Stream(told["coder"], count, content[start : start + size], table)
        start += size
    _require(start == len(content) and not tables, "bytes are left over")
    return _Header(_list(header, "tensors"), streams, _PREAMBLE.size + packed)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _list(told: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = told.get(key)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{key} is no list of objects")
    return found


def _whole(told: dict[str, Any], key: str) -> int:
    return _whole_number(told.get(key), key)


def _whole_number(found: object, key: str) -> int:
    if type(found) is not int or not 0 <= found < 2**48:
        raise ValueError(f"{key} is {found!r}, which is no size")
    return found


def _word(told: dict[str, Any], key: str) -> str:
    found = told.get(key, "")
    if not isinstance(found, str):
        raise ValueError(f"{key} is {found!r}, which is no name")
    return found


def _unzstd(content: bytes, size: int) -> bytes:
    if not size:
        _require(not content, "bytes for an empty stream")
        return b""
    try:
        return pa.Codec("zstd").decompress(content, decompressed_size=size, asbytes=True)
    except OSError as error:
        raise ValueError(f"a compressed stream is damaged: {error}") from error


def _decoded(stream: _Stream) -> UInt8[np.ndarray, " symbol"]:
    if stream.coder == "rans":
        return entropy.decode(stream.content, stream.number, stream.table)
    plain = _unzstd(stream.content, stream.number) if stream.coder == "zstd" else stream.content
    _require(len(plain) == stream.number, f"a stream has {len(plain)} bytes in place of {stream.number}")
    return np.frombuffer(plain, np.uint8)


def unpack(content: bytes) -> dict[str, np.ndarray]:
    """Give back the tensors that `pack` packed, in their order.

    Raises:
        ValueError: if the content is damaged, or not what `pack` writes.
    """
    header = _read(content)
    streams = {key: _decoded(stream) for key, stream in header.streams.items()}
    place: dict[tuple[str, str], int] = defaultdict(int)

    def take(key: tuple[str, str], count: int) -> UInt8[np.ndarray, " symbol"]:
        first, stream = place[key], streams.get(key, np.empty(0, np.uint8))
        _require(first + count <= len(stream), f"the stream {key} ends too early")
        place[key] += count
        return stream[first : first + count]

    room = max(MOST_BYTES, MOST_TIMES * len(content))
    found: dict[str, np.ndarray] = {}
    for told in header.tensors:
        name, dtype, group = _word(told, "name"), _word(told, "dtype"), _word(told, "group")
        _require(name not in found, f"{name} is there twice")
        _require(dtype in DTYPES, f"{name}: the type {dtype!r} is unknown")
        sides = told.get("shape")
        _require(isinstance(sides, list) and len(sides) <= 8, f"{name}: {sides!r} is no shape")
        shape = tuple(_whole_number(side, "a side") for side in sides)  # type: ignore[union-attr]
        room -= math.prod(shape) * DTYPES[dtype]
        _require(room >= 0, f"{name}: the tensors are too large for a file of {len(content)} bytes")
        if "index" in told:
            found[name] = _sparse(told, shape, group, take)
        else:
            planes = [take((group, f"{dtype}.{i}"), math.prod(shape)) for i in range(DTYPES[dtype])]
            together = np.ascontiguousarray(np.stack(planes, 1))
            found[name] = together.view(np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
    _require(all(place[key] == len(stream) for key, stream in streams.items()), "symbols are left over")
    return found


def _sparse(told: dict[str, Any], shape: tuple[int, ...], group: str, take: Any) -> Int8[np.ndarray, "..."]:
    name, index = told["name"], told["index"]
    block = told.get("block")
    fits = told.get("dtype") == "int8" and len(shape) > 1 and math.prod(shape) > 0 and index in INDICES
    fits = fits and isinstance(block, list) and len(block) == 2 and all(side in SIDES for side in block)
    _require(fits, f"{name}: {index!r}, {block!r} and {shape} do not fit")
    rows, columns = shape[0], math.prod(shape[1:])
    high, wide = block  # type: ignore[misc]
    _require(rows % high == 0 and columns % wide == 0, f"{name}: {block} does not divide {shape}")
    count = rows * columns // (high * wide)
    kept = layout.unindex(index, take((group, index), _whole(told, "symbols")), count)
    number = int(kept.sum())
    _require(number == _whole(told, "kept"), f"{name}: {number} blocks are kept, not {told['kept']}")
    blocks = np.zeros((count, high * wide), np.int8)
    blocks[kept] = take((group, "int8.0"), number * high * wide).view(np.int8).reshape(number, high * wide)
    return layout.unblocks(blocks, (rows, columns), (high, wide)).reshape(shape)


def sizes(content: bytes) -> dict[tuple[str, str], int]:
    """Give what each group's streams take, by kind; with `("", "header")` they sum to the content [bytes].

    Kinds are an index of `INDICES`, or a type and the significance of its byte: `int8.0`, `float32.3`. A
    table of frequencies counts as header.
    """
    header = _read(content)
    found = {key: len(stream.content) for key, stream in header.streams.items()}
    return {("", "header"): header.size, **found}
