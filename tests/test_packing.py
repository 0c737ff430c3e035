import json
import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_layout import blocky

from winnow.compress import packing


def model() -> dict[str, np.ndarray]:
    """A little of everything that a classifier holds."""
    random = np.random.default_rng(0)
    return {
        "layer.weight": blocky((96, 128), (4, 1), 0.2),
        "layer.weight_scale": random.random(128, np.float32).astype(np.float16).astype(np.float32),
        "layer.bias": random.integers(-9000, 9000, 128).astype(np.int32),
        "layer.input_scale": np.float32(0.02),
        "layer.input_zero_point": np.uint8(131),
        "norm.weight": random.normal(1, 0.1, 96).astype(np.float32),
        "table": blocky((50, 16), (1, 1), 1.0, 1),
        "places": np.arange(-5, 5),
        "convolution": blocky((8, 12), (1, 1), 0.3).reshape(8, 3, 2, 2),
    }


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return list(one) == list(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(one.values(), other.values(), strict=True)
    )


@pytest.mark.parametrize("code", [False, True])
def test_gives_back_what_was_packed_to_the_bit(code: bool) -> None:
    tensors = {name: np.asarray(tensor) for name, tensor in model().items()}
    groups = {name: name.split(".")[0] for name in tensors}
    content = packing.pack(tensors, groups, code)
    assert same(packing.unpack(content), tensors)
    assert packing.pack(tensors, groups, code) == content
    assert sum(packing.sizes(content).values()) == len(content)


@given(
    shape=st.lists(st.integers(0, 12), min_size=0, max_size=3),
    block=st.sampled_from([(1, 1), (1, 4), (4, 4)]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    code=st.booleans(),
)
def test_gives_back_matrices_of_any_shape(
    shape: list[int], block: tuple[int, int], density: float, code: bool
) -> None:
    count = int(np.prod(shape))
    flat = blocky((max(shape[0] if shape else 1, 1), max(count, 1)), block, density)
    tensors = {
        "a": flat.ravel()[:count].reshape(shape),
        "b": flat.ravel()[:count].reshape(shape).astype(np.float32),
    }
    assert same(packing.unpack(packing.pack(tensors, None, code)), tensors)


def test_gives_back_floats_that_are_no_numbers() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    assert same(packing.unpack(packing.pack({"odd": odd})), {"odd": odd})


def test_nothing_is_packed_too() -> None:
    assert packing.unpack(packing.pack({})) == {}


@pytest.mark.parametrize(
    ("density", "block", "floor"),
    [(0.1, (1, 1), 27.1), (0.05, (1, 1), 48.9), (0.1, (1, 4), 34.6), (0.05, (1, 4), 64.8)],
)
def test_comes_within_two_percent_of_the_entropy(
    density: float, block: tuple[int, int], floor: float
) -> None:
    """Of 1024 × 1024 Gaussian weights, pruned by magnitude, with a scale for each row.

    `floor` is what entropy allows: 32 bits over those of a mask and of values that are all drawn alone.
    """
    weight = np.random.default_rng(0).normal(size=(1024, 1024))
    score = np.abs(weight).reshape(1024, -1, block[1]).mean(2)
    keep = (score > np.quantile(score, 1 - density)).repeat(block[1], 1)
    scale = (np.abs(weight * keep).max(1, keepdims=True) / 127).astype(np.float32)
    values = (np.round(weight / scale) * keep).astype(np.int8)
    content = packing.pack({"weight": values, "scale": scale})
    assert weight.size * 4 / len(content) > 0.98 * floor
    assert np.array_equal(packing.unpack(content)["weight"], values)


def test_refuses_a_type_that_the_format_has_not() -> None:
    with pytest.raises(ValueError, match="a is of type float64"):
        packing.pack({"a": np.zeros(3)})


def test_any_damage_is_noticed() -> None:
    content = packing.pack(model())
    random = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(content)
        broken[random.integers(len(broken))] ^= 1 << random.integers(8)
        with pytest.raises(ValueError):
            packing.unpack(bytes(broken))
    for cut in (0, 5, 19, 20, len(content) // 2, len(content) - 1):
        with pytest.raises(ValueError):
            packing.unpack(content[:cut])
    with pytest.raises(ValueError, match="checksum"):
        packing.unpack(content + b"\0")


def parsed(content: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Header, tables, and streams."""
    packed, unpacked = struct.unpack_from("<II", content, 12)
    plain = pa.Codec("zstd").decompress(content[20 : 20 + packed], unpacked, asbytes=True)
    (length,) = struct.unpack_from("<I", plain)
    return json.loads(plain[4 : 4 + length]), plain[4 + length :], content[20 + packed :]


def made(header: Any, tables: bytes, streams: bytes) -> bytes:
    """A file whose checksum fits, whatever it says."""
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    plain = struct.pack("<I", len(told)) + told + tables
    packed = pa.Codec("zstd").compress(plain, asbytes=True)
    behind = struct.pack("<II", len(packed), len(plain)) + packed + streams
    return packing.MAGIC + struct.pack("<I", zlib.crc32(behind)) + behind


WRONG = [-1, 0, 1, 3, 2**16, 2**40, 2**70, 1.5, "", "x", None, True, [], {}, [1, 2], "zstd", "rans", "gap4"]


def test_a_hostile_file_with_a_fitting_checksum_is_an_error_or_other_tensors() -> None:
    header, tables, streams = parsed(packing.pack(model(), {name: name for name in model()}))
    assert same(packing.unpack(made(header, tables, streams)), packing.unpack(packing.pack(model())))
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(300):
        told, behind, codes = json.loads(json.dumps(header)), bytearray(streams), bytearray(tables)
        kind = trial % 4
        if kind < 2:
            entry = told[("tensors", "streams")[kind]]
            entry = entry[random.integers(len(entry))]
            key = list(entry)[random.integers(len(entry))]
            entry[key] = WRONG[random.integers(len(WRONG))]
        elif kind == 2:
            behind[random.integers(len(behind))] ^= 1 << random.integers(8)
        else:
            codes[random.integers(len(codes))] ^= 1 << random.integers(8)
        try:
            found = packing.unpack(made(told, bytes(codes), bytes(behind)))
            assert sum(tensor.nbytes for tensor in found.values()) <= packing.MOST_BYTES
        except ValueError:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        {"tensors": [], "streams": {}},
        {"tensors": [1], "streams": []},
        {"tensors": [{"name": "a", "dtype": "int8", "shape": [2**40]}], "streams": []},
        {"tensors": [{"name": "a", "dtype": "int8", "shape": [0] * 9}], "streams": []},
        {"tensors": [], "streams": [{"kind": "int8.0", "coder": "raw", "count": 2**40, "bytes": 0}]},
        {"tensors": [], "streams": [{"kind": "int8.0", "coder": "zstd", "count": 9, "bytes": 0}]},
    ],
)
def test_a_header_that_says_nothing_sensible_is_refused(header: Any) -> None:
    with pytest.raises(ValueError):
        packing.unpack(made(header, b"", b""))
