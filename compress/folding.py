"""What zeros make constant is folded away, and what is silent cut out: the same answers, of fewer numbers.

A row without weights gives its bias to every token. Whoever reads that can add it up beforehand, and then
has no use for the weights that it was read with; and what nobody reads needs no weights either. In a network
of few weights that is half of the biases, some of the weights that pruning had kept, and up to two thirds of
the feed-forward channels: those are gone from the shapes, for every runtime.
"""

from dataclasses import replace
from itertools import islice

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional

from winnow.compress.fakequant import FakeQuantized, fake_quantize_rows
from winnow.ssl.shape import LayerSize, Shape
from winnow.ssl.trunk import Attention, Encoder, Layer

GROUP = 4  # channels that blocks of weights hold together at most


@torch.no_grad()
def folded(encoder: Encoder) -> Encoder:
    """Give an encoder that says the same, with no bias on keys and values and none that is only handed on.

    Softmax does not see what it adds to all keys alike, as a key's bias does; and as it makes shares that sum
    to one, a value's bias comes out as it went in. What is zero here gets no gradient, so that further
    training leaves it zero.

    Args:
        encoder: stays as it is; of timm's it is given back.

    Returns:
        Another one, with at least as many zeros.
    """
    if not isinstance(encoder.shape, Shape):
        return encoder
    shape = replace(encoder.shape, biases=tuple(name for name in encoder.shape.biases if name == "query"))
    other = Encoder(encoder.modality, shape).to(next(encoder.parameters()).device).train(encoder.training)
    wanted, state = other.state_dict(), encoder.state_dict()
    other.load_state_dict({name: state[name] for name in wanted})
    for layer, before in zip(other.layers, encoder.layers, strict=True):
        assert isinstance(layer, Layer) and isinstance(before, Layer)
        if before.attention.value.bias is not None:
            layer.attention.out.bias.add_(layer.attention.out.weight @ before.attention.value.bias)
        _fold_feed_forward(layer.fc1, layer.fc2)
        _fold_attention(layer.attention)
    return other


def _fold_feed_forward(fc1: nn.Linear, fc2: nn.Linear) -> None:
    constant = _empty(fc1.weight)
    fc2.bias.add_(fc2.weight @ (functional.gelu(fc1.bias) * constant))
    fc2.weight[:, constant] = 0
    unread = _empty(fc2.weight.T)
    fc1.weight[unread] = 0
    fc1.bias[unread] = 0


def _fold_attention(attention: Attention) -> None:
    query, key = attention.query, attention.key
    for one, other in ((key, query), (query, key)):
        silent = _empty(one.weight)
        if one.bias is not None:
            silent &= one.bias == 0
        other.weight[silent] = 0
        if other.bias is not None:
            other.bias[silent] = 0
    attention.out.weight[:, _empty(attention.value.weight)] = 0
    attention.value.weight[_empty(attention.out.weight.T)] = 0


def _empty(weight: Tensor) -> Tensor:
    """Say of each row whether it has no weight."""
    return ~weight.any(1)


def cut(encoder: Encoder) -> None:
    """Cut the feed-forward channels that are silent out of an encoder, in place.

    What is left keeps its weights and scales, of floats, of fake int8 and of integers. Channels move, but
    those of a group of four stay together: no block of weights becomes two.

    Args:
        encoder: of floats, fake-quantized or of integers; one of timm's stays as it is.
    """
    if not isinstance(encoder.shape, Shape):
        return
    sizes = []
    for layer, size in zip(encoder.layers, encoder.shape.sizes, strict=True):
        assert isinstance(layer, Layer)
        left = regrouped(~silent(layer))
        if len(left) < size.channels:
            _take(layer.fc1, left, rows=True)
            _take(layer.fc2, left, rows=False)
            size = LayerSize(heads=size.heads, channels=len(left))
        sizes.append(size)
    if tuple(sizes) != encoder.shape.sizes:
        encoder.shape = encoder.shape.cut(sizes)


def silent(layer: Layer) -> Bool[Tensor, " channel"]:
    """Say of each feed-forward channel whether it is zero for every token, or read by nobody."""
    fc1, fc2 = (_by_row(part) for part in (layer.fc1, layer.fc2))
    return _empty(fc1) & (layer.fc1.bias == 0) | _empty(fc2.T)


def regrouped(alive: Bool[Tensor, " channel"]) -> Int[Tensor, " left"]:
    """Put what is left of each group of channels together with others, to groups that are full again.

    Args:
        alive: which channels are not silent.

    Returns:
        Their numbers, group by group; silent ones fill up what does not come out even, and are a group where
        nothing else is left. All, in their order, if that saves no group.
    """
    pieces = [group.nonzero().flatten() + GROUP * i for i, group in enumerate(alive.split(GROUP))]
    full: list[list[int]] = []
    for piece in sorted(pieces, key=len, reverse=True):
        room = [group for group in full if len(group) + len(piece) <= GROUP]
        if room:
            room[0].extend(piece.tolist())
        elif len(piece) or not full:
            full.append(piece.tolist())
    if len(full) == len(pieces):
        return torch.arange(len(alive))
    rest = iter((~alive).nonzero().flatten().tolist())
    return torch.tensor([n for group in full for n in (*group, *islice(rest, GROUP - len(group)))])


def _by_row(module: nn.Module) -> Tensor:
    """Give a weight as [row, column], an integer one may lie the other way, and as it is rounded."""
    if isinstance(module, FakeQuantized):
        return fake_quantize_rows(module.weight.detach(), module.bits)
    return module.weight.T if getattr(module, "axis", 0) else module.weight  # type: ignore[return-value]


@torch.no_grad()
def _take(module: nn.Module, channels: Tensor, *, rows: bool) -> None:
    """Keep some rows of a layer with their scales and biases, or some columns."""
    turned = bool(getattr(module, "axis", 0))
    for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if name == "weight":
            taken = value.index_select(int(rows is turned), channels)
        elif rows and value.dim():
            taken = value[channels]
        else:
            continue
        setattr(module, name, nn.Parameter(taken) if isinstance(value, nn.Parameter) else taken)
