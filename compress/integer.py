"""Layers in int8, as they are shipped: one definition for running in torch and for ONNX.

Each is a fake-quantized layer with its weight, bias and scales made final. The state dict of a
classifier of such layers is `quantized.safetensors`, the one form that others are made from.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int, Int8, Int32, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from winnow.compress.fakequant import (
    BIAS_MAX,
    INPUT_MAX,
    FakeQuantized,
    FakeQuantizedEmbedding,
    fake_quantize,
    replace,
    shortened,
    weight_max,
    weight_scale,
)
from winnow.data import store
from winnow.ssl import model as models
from winnow.ssl.model import Classifier

OPSET = 18  # what torch translates to without a conversion between versions on top


def quantize(
    x: Float[Tensor, "..."], scale: Float[Tensor, ""], zero_point: UInt8[Tensor, ""]
) -> UInt8[Tensor, "..."]:
    """Round to uint8; ONNX's QuantizeLinear."""
    if torch.compiler.is_exporting():
        return torch.onnx.ops.symbolic(
            "QuantizeLinear",
            (x, scale, zero_point),
            dtype=torch.uint8,
            shape=x.shape,
            version=OPSET,
        )
    return ((x / scale).round() + zero_point).clamp(0, INPUT_MAX).to(torch.uint8)


def dequantize(
    x: UInt8[Tensor, "..."] | Int8[Tensor, "..."] | Int32[Tensor, " row"],
    scale: Float[Tensor, "*row"],
    zero_point: UInt8[Tensor, ""] | None = None,
    axis: int = 0,
) -> Float[Tensor, "..."]:
    """Give the numbers that integers stand for; ONNX's DequantizeLinear.

    Args:
        x: integers.
        scale: one for all, or one for each place along `axis`.
        zero_point: the integer that means zero; None is 0.
        axis: of x.
    """
    if torch.compiler.is_exporting():
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (x, scale) if zero_point is None else (x, scale, zero_point),
            {"axis": axis} if scale.dim() else {},
            dtype=torch.float32,
            shape=x.shape,
            version=OPSET,
        )
    shift = 0.0 if zero_point is None else zero_point.float()
    if scale.dim():
        scale = scale.view(-1, *[1] * (x.dim() - 1 - axis))
    return (x.float() - shift) * scale


def multiply(
    x: Float[Tensor, "... column"],
    weight: Float[Tensor, "column row"],
    bias: Float[Tensor, " row"] | None,
) -> Float[Tensor, "... row"]:
    """Do what a Linear does, with its weight the other way round."""
    product = x @ weight
    return product if bias is None else product + bias


def _int8_rows(weight: Tensor, bits: int) -> tuple[Int8[Tensor, "row ..."], Float32[Tensor, " row"]]:
    scale, most = weight_scale(weight, bits), weight_max(bits)
    rounded = (weight.detach() / scale.view(-1, *[1] * (weight.dim() - 1))).round()
    return rounded.clamp(-most, most).to(torch.int8), scale


class Integer(nn.Module):
    """A Linear or a convolution with int8 weights, a uint8 input and an int32 bias.

    The bias is in steps of input scale * weight scale: only then do runtimes fuse the layer into an
    integer product. A float bias silently gives a float one; so does a transposed weight, which is
    why a Linear's stands here as [column, row].
    """

    weight: Int8[Tensor, "row ..."] | Int8[Tensor, "column row"]
    bias: Int32[Tensor, " row"] | None
    weight_scale: Float32[Tensor, " row"]
    bias_scale: Float32[Tensor, " row"]
    input_scale: Float32[Tensor, ""]
    input_zero_point: UInt8[Tensor, ""]

    def __init__(self, layer: FakeQuantized) -> None:
        super().__init__()
        weight, scale = _int8_rows(layer.weight, layer.bits)
        self.operation, self.axis = layer.operation, 0
        if layer.operation is functional.linear:
            self.operation, self.axis = multiply, 1
            weight = weight.t().contiguous()
        input_scale, zero_point = layer.input.scale_and_zero_point()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.register_buffer("input_scale", input_scale.clone())
        self.register_buffer("input_zero_point", zero_point.to(torch.uint8))
        bias, bias_scale = None, None
        if layer.bias is not None:
            bias_scale = input_scale * scale
            steps = (layer.bias.detach().double() / bias_scale.double()).round()
            bias = shortened(steps).clamp(-BIAS_MAX, BIAS_MAX).to(torch.int32)
        self.register_buffer("bias", bias)
        self.register_buffer("bias_scale", bias_scale)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        scale, zero_point = self.input_scale, self.input_zero_point
        x = dequantize(quantize(x, scale, zero_point), scale, zero_point)
        weight = dequantize(self.weight, self.weight_scale, axis=self.axis)
        bias = None if self.bias is None else dequantize(self.bias, self.bias_scale)
        return self.operation(x, weight, bias)


class IntegerEmbedding(nn.Module):
    """An embedding of int8 rows; only the rows that are looked up become floats."""

    weight: Int8[Tensor, "row dim"]
    weight_scale: Float32[Tensor, "row 1"]

    def __init__(self, layer: FakeQuantizedEmbedding) -> None:
        super().__init__()
        weight, scale = _int8_rows(layer.weight, layer.bits)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale[:, None].contiguous())

    def forward(self, x: Int[Tensor, "..."]) -> Float[Tensor, "... dim"]:
        rows = functional.embedding(x, self.weight).float()
        return rows * functional.embedding(x, self.weight_scale)


def _integers(model: Classifier) -> Classifier:
    def swap(_: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, FakeQuantized):
            return Integer(module)
        return IntegerEmbedding(module) if isinstance(module, FakeQuantizedEmbedding) else None

    replace(model, swap)
    return model.eval()


def to_integers(model: Classifier) -> Classifier:
    """Make the int8 form of a fake-quantized classifier, which stays as it is.

    Raises:
        ValueError: if an activation's range was never observed.
    """
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantized) and not module.input.seen:
            raise ValueError(f"the input of {name} was never observed: train before quantizing")
    return _integers(copy.deepcopy(model))


def save(model: Classifier, path: Path) -> None:
    """Write an int8 classifier's integers, scales and what is left in float."""
    save_file(model.state_dict(), path)


def load(directory: Path) -> Classifier:
    """Read the int8 classifier of a folder that `quantize` wrote: `quantized.safetensors`, `config.json`.

    Raises:
        ValueError: if tensors and architecture do not fit.
    """
    config = store.read_json(directory / "config.json")
    return build(config, load_file(directory / "quantized.safetensors"))


def build(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> Classifier:
    """Make the int8 classifier that a `config.json` describes, with these tensors.

    Raises:
        ValueError: if they are not those of such a classifier: names, types and shapes.
    """
    model = models.build(config)
    if not isinstance(model, Classifier):
        raise ValueError(f"a {type(model).__name__} has no int8 form, only a Classifier")
    fake_quantize(model)
    _integers(model)
    for name, wanted in model.state_dict().items():
        found = tensors.get(name)
        if found is None or (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            held = "missing" if found is None else f"{found.dtype} of {list(found.shape)}"
            raise ValueError(f"{name} is {held}, not {wanted.dtype} of {list(wanted.shape)}")
    if unknown := tensors.keys() - model.state_dict().keys():
        raise ValueError(f"the architecture has no {', '.join(sorted(unknown)[:3])}")
    model.load_state_dict(dict(tensors))
    return model


def count(model: nn.Module) -> tuple[int, int, int]:
    """Count integer layers, those of them with a bias, and integer embeddings."""
    layers = [module for module in model.modules() if isinstance(module, Integer)]
    embeddings = sum(isinstance(module, IntegerEmbedding) for module in model.modules())
    return len(layers), sum(layer.bias is not None for layer in layers), embeddings


def require_zeros(model: Classifier, keep: dict[str, Bool[Tensor, "..."]]) -> None:
    """Make sure that the integers hold a pattern's zeros; rounding may add some.

    Raises:
        RuntimeError: if an integer is not zero where the pattern is.
    """
    for name, kept in keep.items():
        layer, weight = model.get_submodule(name.rpartition(".")[0]), model.get_buffer(name)
        turned = isinstance(layer, Integer) and layer.axis == 1
        alive = int((weight.t() if turned else weight)[~kept].count_nonzero())
        if alive:
            raise RuntimeError(f"{alive} pruned weights of {name} are not zero as integers")
