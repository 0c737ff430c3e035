"""Where a model's bytes are: every byte of a file in one part, and ratios that say what they count.

A published compression ratio often counts kept weights alone. It stands here beside the ratios of
bytes on disk, which also pay for zeros, scales, biases, norms, embeddings and the graph.
"""

from pathlib import Path

import onnx
import torch
from torch import nn

from winnow.compress import sparsity
from winnow.compress.export import compressed_bytes
from winnow.compress.integer import IntegerEmbedding
from winnow.ssl.model import Classifier

PARTS = (
    "encoder_weights",
    "encoder_scales",
    "encoder_biases",
    "norms",
    "positions",
    "embeddings",
    "frontend",
    "head",
    "graph",
)
ENCODER = ("encoder_weights", "encoder_scales", "encoder_biases", "norms")


def part(name: str, model: Classifier) -> str:
    """Give the part of a model that a tensor of its file belongs to; `graph` if to none."""
    owner, _, kind = name.rpartition(".")
    module: nn.Module | None = dict(model.named_modules()).get(owner)
    if name == "encoder.positions":
        return "positions"
    if module is None or not owner:
        return "graph"
    if isinstance(module, nn.LayerNorm):
        return "norms"
    if isinstance(module, nn.Embedding | IntegerEmbedding):
        return "embeddings"
    if owner == "head":
        return "head"
    if owner.startswith("encoder.layers."):
        return {"weight": "encoder_weights", "bias": "encoder_biases"}.get(kind, "encoder_scales")
    return "frontend"


def contents(path: Path, model: Classifier) -> dict[str, bytes]:
    """Give the raw tensors of an ONNX file, part by part."""
    found = dict.fromkeys(PARTS, b"")
    for tensor in onnx.load(path).graph.initializer:
        found[part(tensor.name, model)] += onnx.numpy_helper.to_array(tensor).tobytes()
    return found


def by_part(path: Path, model: Classifier) -> dict[str, int]:
    """Give the size of each part of an ONNX file; they sum to the file, to the byte [bytes]."""
    sizes = {name: len(content) for name, content in contents(path, model).items()}
    sizes["graph"] += path.stat().st_size - sum(sizes.values())
    return sizes


def encoder_content(model: Classifier) -> bytes:
    """Give a float model's trunk, layers and norms, as the bytes of its tensors."""
    tensors = [tensor for name, tensor in model.state_dict().items() if part(name, model) in ENCODER]
    return b"".join(tensor.to(torch.float32).numpy().tobytes() for tensor in tensors)


def counted_ratio(sparse: Classifier) -> float:
    """Give the ratio that papers print: 32 bits for each weight over 8 bits for each kept one.

    It is about the pruned matrices alone, and pays for no position of a kept weight, no scale, no
    bias, no norm, no embedding.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 1: 40X = 10 * 4.
    """
    return 32 / (8 * (1 - sparsity.measured_sparsity(sparse)))


def ratios(
    float_model: Classifier, float_file: Path, int8_model: Classifier, int8_file: Path
) -> dict[str, float]:
    """Compare a float model with the int8 file; above 1, the latter is smaller.

    Returns:
        `encoder` and `file`, as bytes on disk, and as bytes under Zstandard on both sides.
    """
    held = contents(int8_file, int8_model)
    int8_encoder = b"".join(held[name] for name in ENCODER)
    float_encoder = encoder_content(float_model)
    plain, small = float_file.read_bytes(), int8_file.read_bytes()
    found = {
        "encoder_ratio": len(float_encoder) / len(int8_encoder),
        "encoder_zstd_ratio": compressed_bytes(float_encoder) / compressed_bytes(int8_encoder),
        "file_ratio": len(plain) / len(small),
        "file_zstd_ratio": compressed_bytes(plain) / compressed_bytes(small),
    }
    return {name: round(value, 4) for name, value in found.items()}
