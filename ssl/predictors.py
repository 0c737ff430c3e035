"""What turns the student's output into a prediction of the target; thrown away after pretraining."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from winnow.ssl.positions import CONVOLUTION


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """The size of a decoder, for a student that runs over the visible tokens alone (data2vec 2.0).

    Attributes:
        layers: convolutions.
        dim: their width.
        kernel: their side, odd.
        groups: of each convolution; divides both widths.
        residual: add a convolution's input to its output, where their widths agree.
        out_layers: Linears behind them, with GELU between.
        out_ratio: hidden width of those, in multiples of `dim`.
        noise_std: of the vectors that stand for hidden tokens.
        dropout: probability, on the student's tokens.
    """

    layers: int
    dim: int
    kernel: int
    groups: int
    residual: bool
    out_layers: int
    out_ratio: float
    noise_std: float
    dropout: float


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """The size of a head, for a student that runs over all tokens, the hidden ones covered (data2vec).

    Attributes:
        layers: Linears, with GELU between.
        ratio: hidden width, in multiples of the trunk's.
    """

    layers: int
    ratio: float


class Decoder(nn.Module):
    """Predicts every place of a grid from the visible ones, by grouped convolutions.

    Paper: data2vec 2.0 (Baevski et al. 2022, arXiv 2212.07525), section 3.1.
    """

    def __init__(self, grid: tuple[int, ...], dim: int, shape: DecoderShape) -> None:
        super().__init__()
        self.grid, self.shape = grid, shape
        convolution = CONVOLUTION[len(grid) - 1]
        self.convolutions = nn.ModuleList(
            convolution(
                dim if i == 0 else shape.dim, shape.dim, shape.kernel, padding="same", groups=shape.groups
            )
            for i in range(shape.layers)
        )
        self.norm = nn.LayerNorm(shape.dim, elementwise_affine=False)
        self.dropout = nn.Dropout(shape.dropout)
        self.out = linears(shape.dim, dim, shape.out_layers, int(shape.dim * shape.out_ratio))

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        for convolution in self.convolutions:
            spread = convolution(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2)
            y = functional.gelu(self.norm(spread.transpose(1, 2)))
            x = x + y if self.shape.residual and y.shape == x.shape else y
        return self.out(x)


class Head(nn.Module):
    """Predicts each token from the student's output there; owns the vector that covers a hidden token.

    Paper: data2vec (Baevski et al. 2022, arXiv 2202.03555), sections 3.1 and 3.3.
    """

    def __init__(self, dim: int, shape: HeadShape) -> None:
        super().__init__()
        self.cover = nn.Parameter(0.02 * torch.randn(dim))
        self.out = linears(dim, dim, shape.layers, int(dim * shape.ratio))

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        return self.out(x)


def linears(dim: int, out: int, layers: int, width: int) -> nn.Sequential:
    """Chain Linears with GELU between.

    Raises:
        ValueError: if there is none.
    """
    if layers < 1:
        raise ValueError(f"{layers} layers predict nothing: there must be one at least")
    widths = [dim, *[width] * (layers - 1), out]
    chain: list[nn.Module] = []
    for one, other in pairwise(widths):
        chain += [nn.Linear(one, other), nn.GELU()]
    return nn.Sequential(*chain[:-1])
