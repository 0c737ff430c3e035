"""What zeros make constant is folded away: a network that says the same, of fewer numbers.

A row without weights gives its bias to every token. Whoever reads that can add it up beforehand, and then
has no use for the weights that it was read with; and what nobody reads needs no weights either. In a network
of few weights that is half of the biases, and some of the weights that pruning had kept.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from winnow.ssl.shape import Shape
from winnow.ssl.trunk import Attention, Encoder, Layer


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
