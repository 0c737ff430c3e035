"""Where a model's bytes are: every byte of a file in one part, and ratios that say what they count.

A published compression ratio often counts kept weights alone. It stands here beside the ratios of
bytes on disk, which also pay for indices, scales, biases, norms, embeddings, and what holds them.
"""

import gzip
import zipfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch

from winnow.compress import bundle, packing, parts, sparsity
from winnow.compress.export import compressed_bytes
from winnow.compress.layout import INDICES
from winnow.ssl.model import Classifier

# As in `parts`, with the encoder's weights in two, and what belongs to no tensor.
ROWS = (
    "encoder_values",
    "encoder_indices",
    "encoder_scales",
    "encoder_biases",
    "norms",
    "positions",
    "embeddings",
    "frontend",
    "head",
    "container",
)
COLUMNS = ("onnx", "onnx_zstd", "packed", "bundle")
ENCODER = ("encoder_values", "encoder_indices", "encoder_scales", "encoder_biases", "norms")

Book = dict[str, dict[str, int]]


def _onnx_contents(path: Path, model: Classifier) -> dict[str, bytes]:
    """Give the raw tensors of an ONNX file, part by part, and the graph without them as `container`."""
    found = dict.fromkeys(ROWS, b"")
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        part = parts.part(tensor.name, model)
        row = {"encoder_weights": "encoder_values", None: "container"}.get(part, part)
        if row != "container":
            found[row or ""] += onnx.numpy_helper.to_array(tensor).tobytes()
            tensor.ClearField("raw_data")
    found["container"] = proto.SerializeToString()
    return found


def _streams(packed: bytes) -> dict[str, int]:
    """Give what each part takes of packed weights, whose header is `container` [bytes]."""
    found = dict.fromkeys(ROWS, 0)
    for (group, kind), size in packing.sizes(packed).items():
        row = group or "container"
        if group == "encoder_weights":
            row = "encoder_indices" if kind in INDICES else "encoder_values"
        found[row] += size
    return found


def by_part(model: Classifier, onnx_file: Path, bundle_file: Path) -> Book:
    """Count the bytes of each part, as they lie on disk in each form.

    Returns:
        By row: `onnx`, of the ONNX file, whose zeros take as much as other weights; `onnx_zstd`, the same,
        each part under Zstandard by itself; `packed`, of the bundle if values and indices had a fixed width;
        `bundle`, of the bundle as it is. Columns sum to a file, to the byte, but `onnx_zstd`.
    """
    held = _onnx_contents(onnx_file, model)
    plain = {row: len(content) for row, content in held.items()}
    plain["container"] += onnx_file.stat().st_size - sum(plain.values())
    with zipfile.ZipFile(bundle_file) as file:
        coded = file.read(bundle.WEIGHTS)
    fixed = bundle.weights(model, code=False)
    around = bundle_file.stat().st_size - len(coded)
    columns = {
        "onnx": plain,
        "onnx_zstd": {row: compressed_bytes(content) if content else 0 for row, content in held.items()},
        "packed": _streams(fixed),
        "bundle": _streams(coded),
    }
    for name in ("packed", "bundle"):
        columns[name]["container"] += around
    return {row: {name: columns[name][row] for name in COLUMNS} for row in ROWS}


def encoder_content(model: Classifier) -> bytes:
    """Give a float model's trunk, layers and norms, as the bytes of its tensors."""
    tensors = [t for name, t in model.state_dict().items() if parts.part(name, model) in parts.ENCODER]
    return b"".join(tensor.to(torch.float32).numpy().tobytes() for tensor in tensors)


def counted_ratio(origin: Classifier, sparse: Classifier) -> float:
    """Give the ratio that papers print: 32 bits for each weight over 8 bits for each kept one.

    It is about the trunk's matrices alone, and pays for no position of a kept weight, no scale, no
    bias, no norm, no embedding.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 1: 40X = 10 * 4.
    """
    weights = sum(weight.numel() for weight in sparsity.prunable(origin).values())
    kept = sum(int(weight.count_nonzero()) for weight in sparsity.prunable(sparse).values())
    return 32 * weights / (8 * kept)


def ratios(
    origin: Classifier,
    origin_file: Path,
    sparse: Classifier,
    model: Classifier,
    onnx_file: Path,
    bundle_file: Path,
    book: Mapping[str, Mapping[str, int]],
) -> dict[str, float]:
    """Compare a float model with the int8 one; above 1, the latter is smaller.

    Args:
        origin: the float model.
        origin_file: its file.
        sparse: the pruned float model that was quantized.
        model: the int8 one.
        onnx_file: its ONNX file.
        bundle_file: its bundle.
        book: what `by_part` counted of it.

    Returns:
        `counted` and `zipped`, the published ways: see `counted_ratio`, and gzip of the trunk's dense int8
        tensors. `packed` and `compressed`: the trunk's bytes in the bundle, with fixed widths and as it is;
        both pay for the header of all tensors. `whole_file` and `whole_file_zstd`: the float file, as it is
        and under Zstandard, over the bundle. `onnx_file` and `onnx_file_zstd`: the ONNX file in its place,
        both as they are, and both under Zstandard.
    """
    encoder = encoder_content(origin)
    held = _onnx_contents(onnx_file, model)
    dense = b"".join(held[row] for row in ENCODER)
    with zipfile.ZipFile(bundle_file) as file:
        header = packing.sizes(file.read(bundle.WEIGHTS))["", "header"]
    taken = {name: header + sum(book[row][name] for row in ENCODER) for name in ("packed", "bundle")}
    plain, shipped = origin_file.read_bytes(), onnx_file.read_bytes()
    small = bundle_file.stat().st_size
    found = {
        "counted": counted_ratio(origin, sparse),
        "zipped": len(encoder) / len(gzip.compress(dense, 9, mtime=0)),
        "packed": len(encoder) / taken["packed"],
        "compressed": len(encoder) / taken["bundle"],
        "whole_file": len(plain) / small,
        "whole_file_zstd": compressed_bytes(plain) / small,
        "onnx_file": len(plain) / len(shipped),
        "onnx_file_zstd": compressed_bytes(plain) / compressed_bytes(shipped),
    }
    return {name: round(value, 4) for name, value in found.items()}
