"""Layers that feel int8 while they train: values are rounded, gradients go straight through.

Quantized are Linear, convolution and embedding, and attention's products if they are asked to be. Norms,
softmax, GELU and residual sums stay float: they are little work, and cost accuracy first.

Paper: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
(Jacob et al. 2017, arXiv 1712.05877), sections 2.1, 2.4 and 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from winnow.ssl.mixing import Mixing

INPUT_MAX = 255
BIAS_MAX = 255 * 2**23  # the largest of 8 significant bits in int32
AVERAGING = 0.01  # share of a batch's range in the moving average (Prune Once for All's setting)
# An empty row would have the scale 0, and its bias, which is in units of the scale, no bounds.
SMALLEST_SCALE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Bits:
    """How many bits a weight has; they lie in int8 all the same, and take as many in a bundle.

    Attributes:
        layers: of weights of the trunk's layers [2–8]; those of frontend and head, which are few, have 7 at
            least.
        embeddings: of rows of an embedding [2–8].

    Raises:
        ValueError: if it is more or less.
    """

    layers: int
    embeddings: int

    def __post_init__(self) -> None:
        for bits in (self.layers, self.embeddings):
            if not 2 <= bits <= 8:
                raise ValueError(f"bits must be 2 to 8, not {bits}")


NEVER_SATURATES = 7  # bits of weights for which two products of uint8 fit into 16 bits
EIGHT = Bits(layers=8, embeddings=8)

Products = Literal["float", "int8"]  # of attention: what it multiplies

Operation = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def operation(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> Operation:
    """Give what a layer does to an input, a weight and a bias.

    Raises:
        ValueError: if it pads with anything but zeros.
    """
    if isinstance(layer, nn.Linear):
        return functional.linear
    if layer.padding_mode != "zeros":
        raise ValueError(f"padding_mode {layer.padding_mode!r} is not quantized, only 'zeros'")
    convolve = functional.conv1d if isinstance(layer, nn.Conv1d) else functional.conv2d
    return partial(
        convolve,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )


def shortened(x: Tensor) -> Tensor:
    """Round to 8 significant bits: in a small model, biases and norms are half of what is kept."""
    return x.to(torch.bfloat16).to(x.dtype)


def weight_max(bits: int) -> int:
    """Give the largest whole number of a weight; the range is narrow, as -128 has no opposite."""
    return 2 ** (bits - 1) - 1


def weight_scale(weight: Tensor, bits: int = 8) -> Float[Tensor, " row"]:
    """Give the step between two whole numbers for each output channel or embedding row.

    It is rounded up to 8 significant bits: the other 16 would say nothing, and in a small model there are
    nearly as many rows as kept weights.
    """
    largest = weight.detach().flatten(1).abs().amax(1)
    scale = (largest / weight_max(bits)).clamp(min=SMALLEST_SCALE).float()
    return ((scale.view(torch.int32) + 0xFFFF) & -0x10000).view(torch.float32)


def fake_quantize_rows(weight: Tensor, bits: int = 8) -> Tensor:
    """Round to whole steps, per row and symmetric, so that zero stays exactly zero."""
    scale, most = weight_scale(weight, bits), weight_max(bits)
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -most, most)


class Observer(nn.Module):
    """Fake-quantizes activations to uint8, over a range that follows what it sees until `freeze`.

    Before the first batch it lets everything through as it is.
    """

    low: Float[Tensor, ""]
    high: Float[Tensor, ""]
    watched: Bool[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("watched", torch.tensor(False))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.frozen = False

    @property
    def seen(self) -> bool:
        return bool(self.watched)

    @torch.no_grad()
    def watch(self, x: Tensor) -> None:
        """Move the range towards that of a batch; it always holds zero, which padding needs."""
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        share = AVERAGING if self.high > self.low else 1.0
        self.take(self.low.lerp(low, share), self.high.lerp(high, share))

    def take(self, low: Float[Tensor, ""], high: Float[Tensor, ""]) -> None:
        """Take a range for what was seen."""
        self.low.copy_(low)
        self.high.copy_(high)
        self.watched.fill_(True)

    def scale_and_zero_point(self) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Give the step between two uint8 values, and the one that means zero.

        Zeros alone, of channels that are all pruned, have no range. Theirs is of 1: in steps of the smallest
        scale, the bias behind them would have no room.
        """
        width = torch.where(self.high > self.low, self.high - self.low, 1.0)
        scale = (width / INPUT_MAX).clamp(min=SMALLEST_SCALE)
        zero_point = (-self.low / scale).round().clamp(0, INPUT_MAX)
        return scale, zero_point.to(torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.frozen:
            self.watch(x)
        if not self.seen:
            return x
        scale, zero_point = self.scale_and_zero_point()
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, INPUT_MAX)


class FakeQuantized(nn.Module):
    """A Linear or a convolution in the arithmetic of its integer form; parameters keep names."""

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d, bits: int = 8) -> None:
        super().__init__()
        self.weight, self.bias, self.bits = layer.weight, layer.bias, bits
        self.operation = operation(layer)
        self.input = Observer()

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        bias = self.bias
        if bias is not None and self.input.seen:
            # int32 in steps of input scale * weight scale, as the accumulator that it is added to.
            step = self.input.scale_and_zero_point()[0] * weight_scale(self.weight, self.bits)
            steps = shortened((bias / step).round()).clamp(-BIAS_MAX, BIAS_MAX)
            bias = bias + (steps * step - bias).detach()
        return self.operation(x, fake_quantize_rows(self.weight, self.bits), bias)


class FakeQuantizedEmbedding(nn.Module):
    """An embedding whose rows are rounded to int8, each with its own scale."""

    def __init__(self, layer: nn.Embedding, bits: int = 8) -> None:
        super().__init__()
        self.weight, self.padding_idx, self.bits = layer.weight, layer.padding_idx, bits

    def forward(self, x: Int[Tensor, "..."]) -> Float[Tensor, "... dim"]:
        return functional.embedding(x, fake_quantize_rows(self.weight, self.bits), self.padding_idx)


class FakeQuantizedMixing(nn.Module):
    """Attention's products in the arithmetic of their integer form: query by key, share by value.

    Shares are rounded before they are divided by their sum: of a long sequence, all would be 0 behind it.
    """

    def __init__(self, mixing: Mixing) -> None:
        super().__init__()
        self.dropout = mixing.dropout
        self.query, self.key, self.value = Observer(), Observer(), Observer()

    def forward(
        self,
        q: Float[Tensor, "batch head seen width"],
        k: Float[Tensor, "batch head seen width"],
        v: Float[Tensor, "batch head seen width"],
        allowed: Shaped[Tensor, "one_or_batch one_or_head one_or_seen seen"] | None,
    ) -> Float[Tensor, "batch head seen width"]:
        scores = self.query(q) @ self.key(k).transpose(-2, -1) * q.shape[-1] ** -0.5
        share = torch.fake_quantize_per_tensor_affine(shares(scores, allowed), 1 / INPUT_MAX, 0, 0, INPUT_MAX)
        mixed = functional.dropout(share, self.dropout, self.training) @ self.value(v)
        return mixed / share.sum(-1, keepdim=True)


def shares(
    scores: Float[Tensor, "batch head seen seen"],
    allowed: Shaped[Tensor, "one_or_batch one_or_head one_or_seen seen"] | None,
) -> Float[Tensor, "batch head seen seen"]:
    """Give how much a query takes of each value, against that of which it takes most [0–1].

    Args:
        scores: of queries and keys.
        allowed: False where a key must not be read, or what is added to a score.
    """
    if allowed is not None:
        if allowed.dtype == torch.bool:
            allowed = torch.where(allowed, 0.0, -torch.inf)
        scores = scores + allowed
    return (scores - scores.detach().amax(-1, keepdim=True)).exp()


def replace(model: nn.Module, swap: Callable[[str, nn.Module], nn.Module | None], above: str = "") -> int:
    """Exchange submodules in place by what `swap` gives for a name, and count them; None keeps one."""
    count = 0
    for name, module in model.named_children():
        whole = f"{above}{name}"
        other = swap(whole, module)
        if other is None:
            count += replace(module, swap, f"{whole}.")
        else:
            setattr(model, name, other)
            count += 1
    return count


def fake_quantize(model: nn.Module, bits: Bits = EIGHT, attention: Products = "float") -> int:
    """Turn all parts of a model that have an int8 form into fake-quantized ones, in place.

    Args:
        model: is changed.
        bits: of weights.
        attention: what its products are of.

    Returns:
        How many parts there are.

    Raises:
        ValueError: if there is none, or attention is not the trunk's own.
    """
    if attention == "int8" and not any(isinstance(module, Mixing) for module in model.modules()):
        raise ValueError(
            "attention is to be int8, and the model's is none of winnow.ssl.trunk's: set attention to float"
        )

    def swap(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            inside = "layers" in name.split(".")
            return FakeQuantized(module, bits.layers if inside else max(bits.layers, NEVER_SATURATES))
        if isinstance(module, Mixing) and attention == "int8":
            return FakeQuantizedMixing(module)
        return FakeQuantizedEmbedding(module, bits.embeddings) if isinstance(module, nn.Embedding) else None

    count = replace(model, swap)
    if not count:
        raise ValueError("the model has no layer that can be quantized")
    return count


def freeze(model: nn.Module) -> None:
    """Hold the ranges of all activations where they are."""
    for module in model.modules():
        if isinstance(module, Observer):
            module.frozen = True


@torch.no_grad()
def round_rest(model: nn.Module) -> None:
    """Round what stays float (norms, learned positions, factors) to 8 significant bits, in place.

    They are computed with as float32; lower bits that are zero take next to no bytes in a bundle.
    """
    quantized = (FakeQuantized, FakeQuantizedEmbedding)
    inside = {
        id(p) for module in model.modules() if isinstance(module, quantized) for p in module.parameters()
    }
    for parameter in model.parameters():
        if id(parameter) not in inside:
            parameter.copy_(shortened(parameter))


def master_weights(model: nn.Module) -> dict[str, Tensor]:
    """Give the float weights behind a fake-quantized model, under the names of the float model."""
    observed = {
        f"{name}.{buffer}"
        for name, module in model.named_modules()
        if isinstance(module, Observer)
        for buffer, _ in module.named_buffers()
    }
    return {name: t for name, t in model.state_dict().items() if name not in observed}
