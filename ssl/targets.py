"""What the student has to predict: the teacher's view of a whole sample, normalised and averaged."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from winnow.ssl.tokens import pool
from winnow.ssl.trunk import Encoded

Norm = Literal["instance", "layer", "none"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """How a target is made of the teacher's layers.

    Attributes:
        layers: last ones, that it averages.
        tap: of each its `feed_forward` part, before the residual, or the output of the whole `layer`.
        norm: of each, before averaging: over the tokens of a channel (`instance`), over the channels of a
            token (`layer`), or `none`.
        final_norm: of the average; the same words.

    Paper: data2vec (Baevski et al. 2022, arXiv 2202.03555), section 3.3.
    """

    layers: int
    tap: Literal["feed_forward", "layer"]
    norm: Norm
    final_norm: Norm

    def __call__(self, encoded: Encoded) -> Float[Tensor, "batch seen dim"]:
        """Make the target of what the teacher gives, in 32 bits."""
        of_layers = encoded.taps if self.tap == "feed_forward" else encoded.hidden
        normed = [normalized(x.float(), encoded.valid, self.norm) for x in of_layers[-self.layers :]]
        return normalized(torch.stack(normed).mean(0), encoded.valid, self.final_norm)


def normalized(
    x: Float[Tensor, "batch token dim"], valid: Bool[Tensor, "batch token"], norm: Norm
) -> Float[Tensor, "batch token dim"]:
    """Normalise over the valid tokens of a channel, over the channels of a token, or not at all."""
    if norm == "layer":
        return functional.layer_norm(x, x.shape[-1:])
    return instance_norm(x, valid) if norm == "instance" else x


def instance_norm(
    x: Float[Tensor, "batch token dim"], valid: Bool[Tensor, "batch token"]
) -> Float[Tensor, "batch token dim"]:
    """Normalise each channel of each sample over its valid tokens."""
    mean = pool(x, valid)[:, None]
    variance = pool((x - mean).square(), valid)[:, None]
    return (x - mean) / (variance + 1e-5).sqrt()
