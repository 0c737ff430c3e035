"""Fewer attention heads and feed-forward channels: which matter, and a network that has no others.

What is cut away is gone from the shapes of all matrices, so that every runtime gains by it. An encoder's
width stays, as does a head's: each layer reads and writes the same tokens as before.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from winnow.data.batches import Batch
from winnow.ssl.shape import LayerSize, Shape
from winnow.ssl.trunk import Encoder, Layer


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """How heads and channels are chosen.

    Attributes:
        score: what makes them matter: `taylor`, what the loss would change by without them, to first order;
            or `magnitude` of their weights, which takes no samples.
        samples: labelled ones, that `taylor` looks at.
        scope: `layer`: the same share of each layer is left. `global`: what matters most of all layers.
        multiple: that channels of a layer are left in, as kernels of int8 read 4 at a time or more; a layer
            that it does not divide may keep all.

    Raises:
        ValueError: if a number is below 1.
    """

    score: Literal["taylor", "magnitude"]
    samples: int
    scope: Literal["layer", "global"]
    multiple: int

    def __post_init__(self) -> None:
        for name in ("samples", "multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"slicing.{name} must be 1 at least, not {getattr(self, name)}")


class Importance(NamedTuple):
    """How much each head and each channel matters, layer by layer."""

    heads: list[Float[Tensor, " head"]]
    channels: list[Float[Tensor, " channel"]]


class Kept(NamedTuple):
    """Which of those that a network has are kept, layer by layer, ascending."""

    heads: list[Int[Tensor, " kept"]]
    channels: list[Int[Tensor, " kept"]]


def taylor(
    encoder: Encoder, costs: Callable[[Batch], Float[Tensor, ""]], batches: Iterable[Batch]
) -> Importance:
    """Estimate what the loss of a sample would change by without a head or a channel, to first order.

    Each is behind a gate that is 1, and the loss has a slope there. Its size is averaged over samples, since
    what helps one sample and harms another matters to both.

    Args:
        encoder: of the network that the loss is of; measured in evaluation mode.
        costs: the summed loss of a batch.
        batches: samples.

    Raises:
        ValueError: if the trunk is one of timm's, or there is no sample.

    Paper: Are Sixteen Heads Really Better than One? (Michel et al. 2019, arXiv 1905.10650), section 4.1, for
    heads; Importance Estimation for Neural Network Pruning (Molchanov et al. 2019, arXiv 1906.10771), section
    3, for gates behind anything.
    """
    layers, gates = _layers(encoder), list[Tensor]()

    def gated(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
        def multiply(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
            x = given[0]  # [B, N, part * width]
            gate = x.new_ones(len(x), 1, number, 1).requires_grad_()
            gates.append(gate)
            return (x.unflatten(-1, (number, -1)) * gate).flatten(-2)

        return multiply

    hooks = [
        module.register_forward_pre_hook(gated(number))
        for layer in layers
        for module, number in (
            (layer.attention.out, layer.attention.heads),
            (layer.fc2, layer.fc2.in_features),
        )
    ]
    total, samples, training = [torch.zeros(())] * len(hooks), 0, encoder.training
    encoder.eval()
    try:
        for batch in batches:
            with torch.enable_grad():
                slopes = torch.autograd.grad(costs(batch), gates)
            total = [one + slope.abs().sum(0).flatten() for one, slope in zip(total, slopes, strict=True)]
            samples += len(batch.x)
            gates.clear()
    finally:
        encoder.train(training)
        for hook in hooks:
            hook.remove()
    if not samples:
        raise ValueError("without a sample nothing can be said about what matters")
    means = [one / samples for one in total]
    return Importance(means[::2], means[1::2])


@torch.no_grad()
def magnitude(encoder: Encoder) -> Importance:
    """Give the root of the sum of squares of all weights that go with a head or a channel.

    Raises:
        ValueError: if the trunk is one of timm's.
    """
    found = Importance([], [])
    for layer in _layers(encoder):
        attention = layer.attention
        rows = [part.weight.square().sum(1) for part in (attention.query, attention.key, attention.value)]
        squares = sum(rows, attention.out.weight.square().sum(0))
        found.heads.append(squares.view(attention.heads, -1).sum(1).sqrt())
        squares = layer.fc1.weight.square().sum(1) + layer.fc2.weight.square().sum(0)
        found.channels.append(squares.sqrt())
    return found


def choose(importance: Importance, slicing: Slicing, *, heads: float, channels: float) -> Kept:
    """Choose what matters most.

    Args:
        importance: of all there is.
        slicing: how.
        heads: share that is kept, one head of each layer at least (0–1].
        channels: the same of channels, `slicing.multiple` of each layer at least (0–1].

    Raises:
        ValueError: if a share is out of bounds.
    """
    for name, share in (("heads", heads), ("channels", channels)):
        if not 0 < share <= 1:
            raise ValueError(f"{name} must be a share above 0 and up to 1, not {share}")
    return Kept(
        _best(importance.heads, heads, slicing.scope, 1),
        _best(importance.channels, channels, slicing.scope, slicing.multiple),
    )


def _best(scores: list[Tensor], share: float, scope: str, multiple: int) -> list[Tensor]:
    if scope == "layer" and len(scores) > 1:
        return [kept for score in scores for kept in _best([score], share, scope, multiple)]
    # Units of so many, best first: whichever number of a layer's units is kept, they are its best.
    units = [torch.argsort(score.cpu(), descending=True, stable=True).split(multiple) for score in scores]
    number = max(len(scores), round(share * sum(map(len, units))))
    rest = [
        (float(score[unit].sum()), layer)
        for layer, (score, split) in enumerate(zip(scores, units, strict=True))
        for unit in split[1:]
    ]
    first = list(range(len(scores)))  # what each layer keeps in any case
    taken = first + [layer for _, layer in sorted(rest, key=lambda one: -one[0])[: number - len(first)]]
    return [torch.cat(split[: taken.count(layer)]).sort().values for layer, split in enumerate(units)]


@torch.no_grad()
def cut(encoder: Encoder, kept: Kept) -> Encoder:
    """Copy an encoder without all other heads and channels.

    It gives what the whole one gives when the columns that read them (of `attention.out` and `fc2`) are zero.

    Args:
        encoder: what is copied.
        kept: of what it has.

    Raises:
        ValueError: if the trunk is one of timm's, or quantized.
    """
    student = copy.deepcopy(encoder)
    layers, shape = _layers(student), encoder.shape
    assert isinstance(shape, Shape)
    width, sizes = shape.dim // shape.heads, []
    for layer, size, heads, channels in zip(layers, shape.sizes, *kept, strict=True):
        attention = layer.attention
        rows = (width * heads[:, None] + torch.arange(width)).flatten()
        for part in (attention.query, attention.key, attention.value):
            _slice_rows(part, rows)
        _slice_columns(attention.out, rows)
        _slice_rows(layer.fc1, channels)
        _slice_columns(layer.fc2, channels)
        sizes.append(
            LayerSize(heads=tuple(size.heads[head] for head in heads.tolist()), channels=len(channels))
        )
        attention.heads, attention.kept = len(heads), list(sizes[-1].heads)
    student.shape = shape.cut(sizes)
    return student


def _slice_rows(matrix: nn.Linear, kept: Tensor) -> None:
    matrix.out_features = len(kept)
    matrix.weight = nn.Parameter(matrix.weight[kept])
    if matrix.bias is not None:
        matrix.bias = nn.Parameter(matrix.bias[kept])


def _slice_columns(matrix: nn.Linear, kept: Tensor) -> None:
    matrix.in_features = len(kept)
    matrix.weight = nn.Parameter(matrix.weight[:, kept])


def _layers(encoder: Encoder) -> list[Layer]:
    found = []
    for layer in encoder.layers:
        if not isinstance(layer, Layer):
            raise ValueError("heads and channels of timm's blocks cannot be cut away: only whole layers can")
        if not isinstance(layer.fc1, nn.Linear):
            raise ValueError(f"a {type(layer.fc1).__name__} cannot be cut: slice before quantizing")
        found.append(layer)
    return found


def sliced(
    encoder: Encoder, importance: Importance, slicing: Slicing, *, heads: float, channels: float
) -> Encoder:
    """Copy an encoder with a share of its heads and channels, those that matter: `choose`, then `cut`."""
    return cut(encoder, choose(importance, slicing, heads=heads, channels=channels))
