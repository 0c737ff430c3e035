"""Do int8 kernels without VNNI get a model's sums right? Measured, for the weights and inputs that it has.

Such kernels (vpmaddubsw of AVX2 and AVX-512) add two neighbouring products, uint8 times int8, in 16 bits: up
to 2 · 255 · 127 = 64,770, where 32,767 is the end. Weights of seven bits never do: `bits` of `quantize`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from winnow.compress.fakequant import INPUT_MAX
from winnow.compress.integer import Integer, multiply

_LARGEST, _SMALLEST = 2**15 - 1, -(2**15)
_ROWS = 64  # inputs of a layer that are looked at: all pairs of all its weights, for each
_PRODUCTS = 1 << 24  # that are held at once


class Saturation(NamedTuple):
    """What may go wrong in a model.

    Attributes:
        possible: share of outputs for which some input would saturate: the weights alone decide.
        measured: share of outputs that some samples' inputs did saturate.
    """

    possible: float
    measured: float


@torch.no_grad()
def measure(model: nn.Module, x: Tensor) -> Saturation:
    """Find how many outputs of its Linears a kernel with sums of 16 bits would get wrong.

    Args:
        model: whose layers are of `winnow.compress.integer`.
        x: samples.
    """
    found = [0, 0, 0, 0]
    handles = []
    for module in model.modules():
        if isinstance(module, Integer) and module.operation is multiply:

            def look(layer: Integer, inputs: tuple[Tensor, ...]) -> None:
                flat = inputs[0].reshape(-1, inputs[0].shape[-1])
                stride = max(1, len(flat) // _ROWS)
                u = (flat[::stride] / layer.input_scale).round() + layer.input_zero_point
                wrong, possible = _wrong(u.clamp(0, INPUT_MAX).int(), layer.weight.int())
                for i, more in enumerate((wrong, len(u) * layer.weight.shape[1])):
                    found[i] += more
                for i, more in enumerate((possible, layer.weight.shape[1])):
                    found[2 + i] += more

            handles.append(module.register_forward_pre_hook(look))
    model(x)
    for handle in handles:
        handle.remove()
    return Saturation(possible=found[2] / max(found[3], 1), measured=found[0] / max(found[1], 1))


def _wrong(u: Int[Tensor, "input column"], weight: Int[Tensor, "column row"]) -> tuple[int, int]:
    """Count outputs of which a pair of products does not fit, and rows of weights for which that can be."""
    even, odd = weight[0::2], weight[1::2]
    if len(odd) < len(even):
        odd = torch.cat([odd, torch.zeros_like(odd[:1])])
    highest = INPUT_MAX * (even.clamp(min=0) + odd.clamp(min=0))
    lowest = INPUT_MAX * (even.clamp(max=0) + odd.clamp(max=0))
    # Rows for which no input can saturate need no look.
    risky = ((highest > _LARGEST) | (lowest < _SMALLEST)).any(0)
    even, odd = even[:, risky], odd[:, risky]
    wrong = 0
    if even.shape[1]:
        left, right = u[:, 0::2], nn.functional.pad(u, (0, u.shape[1] % 2))[:, 1::2]
        for a, b in zip(*(t.split(max(1, _PRODUCTS // even.numel())) for t in (left, right)), strict=True):
            pairs = a[:, :, None] * even + b[:, :, None] * odd
            wrong += int(((pairs > _LARGEST) | (pairs < _SMALLEST)).any(1).sum())
    return wrong, int(risky.sum())
