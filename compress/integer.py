"""Layers in int8, as they are shipped: one definition for running in torch and for ONNX.

Each is a fake-quantized layer with its weight, bias and scales made final. The state dict of a
classifier of such layers is `quantized.safetensors`, the one form that others are made from.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int, Int8, Int32, Shaped, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from winnow.compress.fakequant import (
    BIAS_MAX,
    INPUT_MAX,
    FakeQuantized,
    FakeQuantizedEmbedding,
    FakeQuantizedMixing,
    Observer,
    fake_quantize,
    replace,
    shares,
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


def rounded(
    x: Float[Tensor, "..."], scale: Float[Tensor, ""], zero_point: UInt8[Tensor, ""]
) -> Float[Tensor, "..."]:
    """Give the numbers that x is rounded to."""
    return dequantize(quantize(x, scale, zero_point), scale, zero_point)


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
    whole = (weight.detach() / scale.view(-1, *[1] * (weight.dim() - 1))).round()
    return whole.clamp(-most, most).to(torch.int8), scale


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
        x = rounded(x, scale, zero_point)
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


class IntegerMixing(nn.Module):
    """Attention whose products are of uint8 and uint8: query by key, share by value."""

    query_scale: Float32[Tensor, ""]
    query_zero_point: UInt8[Tensor, ""]
    key_scale: Float32[Tensor, ""]
    key_zero_point: UInt8[Tensor, ""]
    value_scale: Float32[Tensor, ""]
    value_zero_point: UInt8[Tensor, ""]
    share_scale: Float32[Tensor, ""]
    share_zero_point: UInt8[Tensor, ""]

    def __init__(self, mixing: FakeQuantizedMixing) -> None:
        super().__init__()
        for name, observer in mixing.named_children():
            assert isinstance(observer, Observer)
            scale, zero_point = observer.scale_and_zero_point()
            self.register_buffer(f"{name}_scale", scale.clone())
            self.register_buffer(f"{name}_zero_point", zero_point.to(torch.uint8))
        self.register_buffer("share_scale", torch.tensor(1 / INPUT_MAX), persistent=False)
        self.register_buffer("share_zero_point", torch.tensor(0, dtype=torch.uint8), persistent=False)

    def forward(
        self,
        q: Float[Tensor, "batch head seen width"],
        k: Float[Tensor, "batch head seen width"],
        v: Float[Tensor, "batch head seen width"],
        allowed: Shaped[Tensor, "one_or_batch one_or_head one_or_seen seen"] | None,
    ) -> Float[Tensor, "batch head seen width"]:
        # Each product reads what was dequantized, with nothing between: runtimes then multiply integers.
        root = q.shape[-1] ** -0.5
        q = dequantize(
            quantize(q, self.query_scale, self.query_zero_point),
            root * self.query_scale,
            self.query_zero_point,
        )
        k = rounded(k.transpose(-2, -1), self.key_scale, self.key_zero_point)
        share = rounded(shares(q @ k, allowed), self.share_scale, self.share_zero_point)
        return share @ rounded(v, self.value_scale, self.value_zero_point) / share.sum(-1, keepdim=True)


def _integers(model: Classifier) -> Classifier:
    def swap(_: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, FakeQuantized):
            return Integer(module)
        if isinstance(module, FakeQuantizedMixing):
            return IntegerMixing(module)
        return IntegerEmbedding(module) if isinstance(module, FakeQuantizedEmbedding) else None

    replace(model, swap)
    return model.eval()


def to_integers(model: Classifier) -> Classifier:
    """Make the int8 form of a fake-quantized classifier, which stays as it is.

    Raises:
        ValueError: if an activation's range was never observed.
    """
    for name, module in model.named_modules():
        if isinstance(module, Observer) and not module.seen:
            owner, _, what = name.rpartition(".")
            raise ValueError(f"the {what} of {owner} was never observed: train before quantizing")
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
    mixed = any(name.endswith(".query_scale") for name in tensors)
    fake_quantize(model, attention="int8" if mixed else "float")
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


class Count(NamedTuple):
    """How many parts of a model are of integers; of the layers, some have a bias."""

    layers: int
    biases: int
    embeddings: int
    attentions: int


def count(model: nn.Module) -> Count:
    """Count what is of integers in a model."""
    layers = [module for module in model.modules() if isinstance(module, Integer)]
    embeddings, attentions = (
        sum(isinstance(module, kind) for module in model.modules())
        for kind in (IntegerEmbedding, IntegerMixing)
    )
    return Count(len(layers), sum(layer.bias is not None for layer in layers), embeddings, attentions)


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
