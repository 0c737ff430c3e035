"""Telling samples apart: of all views in a batch, each is to find those of its own sample.

A target is made of what the teacher knows, and on little data it knows little: where a token stands, and
what nearly all samples have in common, are predicted first, and loss and variances look healthy while the
features are good for nothing. What tells one sample from the others is what these leave out.

Paper: SimCLR (Chen et al. 2020, arXiv 2002.05709), section 2.1; views by masking alone, as for documents in
DeCLUTR (Giorgi et al. 2021, arXiv 2006.03659), section 3.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from winnow.ssl.predictors import linears


@dataclass(frozen=True, kw_only=True)
class InstanceShape:
    """How views are compared.

    Attributes:
        weight: of the cost beside that of a hidden token's prediction.
        temperature: that similarities of two views [-1–1] are divided by.
        layers: Linears of the projector, with GELU between.
        ratio: their hidden width, in multiples of the trunk's.
        dim: of the vectors that are compared.
    """

    weight: float
    temperature: float
    layers: int
    ratio: float
    dim: int


class Instances(nn.Module):
    """Projects views to vectors and asks of each which others are of its sample."""

    def __init__(self, dim: int, shape: InstanceShape) -> None:
        super().__init__()
        self.shape = shape
        self.project = linears(dim, shape.dim, shape.layers, int(dim * shape.ratio))

    def forward(self, x: Float[Tensor, "view dim"]) -> Float[Tensor, "view compared"]:
        """Project what the trunk makes of views, in 32 bits, to length 1."""
        return functional.normalize(self.project(x).float(), dim=1)

    def cost(
        self,
        one: Float[Tensor, "view compared"],
        sample: Int[Tensor, " view"],
        among: Float[Tensor, "all compared"],
        samples: Int[Tensor, " all"],
        own: Int[Tensor, " view"],
    ) -> Float[Tensor, " view"]:
        """Give the mean cross-entropy of finding the other views of the same sample.

        Args:
            one: the views that ask.
            sample: of which sample each is.
            among: all views, of all processes.
            samples: of which sample each of those is.
            own: where among them a view that asks stands itself.
        """
        itself = functional.one_hot(own, len(among)).bool()
        scores = (one @ among.T / self.shape.temperature).masked_fill(itself, -torch.inf)
        partner = (sample[:, None] == samples) & ~itself
        costs = -scores.log_softmax(1).masked_fill(~partner, 0.0)
        return costs.sum(1) / partner.sum(1).clamp(min=1)
