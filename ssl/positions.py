"""Where a token stands: codes that are added to tokens, and biases that are added to attention.

All work on a grid of any number of axes. Shapes: `token` counts the grid, `place` the extra tokens that stand
in front of it and then the grid, `seen` those that are run through the layers.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d)  # by the grid's axes


def sincos_positions(grid: tuple[int, ...], dim: int) -> Float[Tensor, "token dim"]:
    """Give every place of a grid its fixed code: a share of the channels for each axis.

    Raises:
        ValueError: if dim is not divisible by 2 * axes.

    Paper: Attention Is All You Need (Vaswani et al. 2017), section 3.5, per axis.
    """
    if dim % (2 * len(grid)):
        raise ValueError(f"dim {dim} is not divisible by {2 * len(grid)}, for the grid {grid}")
    share = dim // len(grid)
    frequency = 10_000.0 ** -(torch.arange(0, share, 2) / share)
    angle = coordinates(grid)[:, :, None] * frequency  # [N, axes, share/2]
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(1)


def coordinates(grid: tuple[int, ...]) -> Int[Tensor, "token axis"]:
    """Give the coordinates of every place, row by row."""
    return torch.cartesian_prod(*(torch.arange(side) for side in grid)).view(-1, len(grid))


@dataclass(frozen=True, kw_only=True)
class ConvolutionShape:
    """Convolutions over a grid.

    Attributes:
        layers: how many.
        kernel: their side, odd.
        groups: of each; divides the width.
    """

    layers: int
    kernel: int
    groups: int


class Convolutions(nn.Module):
    """Codes made of the tokens around a place, by grouped convolutions (data2vec on speech).

    Raises:
        ValueError: if the kernel is even or the groups do not divide the width.

    Paper: data2vec (Baevski et al. 2022, arXiv 2202.03555), section 4.2.
    """

    def __init__(self, grid: tuple[int, ...], dim: int, shape: ConvolutionShape) -> None:
        super().__init__()
        if shape.kernel % 2 == 0 or dim % shape.groups:
            raise ValueError(
                f"kernel {shape.kernel} must be odd, and {shape.groups} groups must divide dim {dim}"
            )
        self.grid = grid
        kind = CONVOLUTION[len(grid) - 1]
        self.layers = nn.ModuleList(
            kind(dim, dim, shape.kernel, padding="same", groups=shape.groups) for _ in range(shape.layers)
        )
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        for layer in self.layers:
            spread = layer(x.transpose(1, 2).unflatten(2, self.grid)).flatten(2)
            x = functional.gelu(self.norm(spread.transpose(1, 2)))
        return x


class RelativeTable(nn.Module):
    """A learned bias for each head and each offset between two places of the grid.

    Extra tokens have three rows of their own: to the grid, from the grid, among themselves.

    Paper: BEiT (Bao et al. 2021, arXiv 2106.08254), section 2.3, after Shaw et al. 2018.
    """

    index: Int[Tensor, "place place"]

    def __init__(self, grid: tuple[int, ...], heads: int, extra: int) -> None:
        super().__init__()
        where = coordinates(grid)
        offset = where[:, None] - where[None]  # [N, N, axes]
        index = torch.zeros(len(where), len(where), dtype=torch.long)
        for axis, side in enumerate(grid):
            index = index * (2 * side - 1) + offset[..., axis] + side - 1
        rows = math.prod(2 * side - 1 for side in grid)
        if extra:
            index = functional.pad(index, (extra, 0, extra, 0))
            index[:extra], index[:, :extra], index[:extra, :extra] = rows, rows + 1, rows + 2
            rows += 3
        self.table = nn.Parameter(torch.zeros(rows, heads))
        self.register_buffer("index", index, persistent=False)

    def forward(
        self, place: Int[Tensor, "batch seen"] | None
    ) -> Float[Tensor, "one_or_batch head seen seen"]:
        """Give the bias among places, or among all of them, in order."""
        index = self.index if place is None else self.index[place[:, :, None], place[:, None, :]]
        bias = self.table[index]
        return bias.movedim(-1, -3) if place is not None else bias.movedim(-1, 0)[None]


class Alibi(nn.Module):
    """A penalty that grows with the distance of two places, at a learned rate for each head.

    Distances are summed over axes; extra tokens are near to all.

    Paper: Train Short, Test Long (Press et al. 2022, arXiv 2108.12409), section 3, in both directions; the
    learned scale is that of data2vec 2.0 on speech.
    """

    distance: Int[Tensor, "place place"]
    slope: Float[Tensor, " head"]

    def __init__(self, grid: tuple[int, ...], heads: int, extra: int) -> None:
        super().__init__()
        where = coordinates(grid)
        distance = (where[:, None] - where[None]).abs().sum(-1)
        self.register_buffer("distance", functional.pad(distance, (extra, 0, extra, 0)), persistent=False)
        self.register_buffer("slope", alibi_slopes(heads), persistent=False)
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(
        self, place: Int[Tensor, "batch seen"] | None
    ) -> Float[Tensor, "one_or_batch head seen seen"]:
        """Give the bias among places, or among all of them, in order."""
        distance = self.distance[None] if place is None else self.distance[place[:, :, None], place[:, None]]
        rate = self.slope * self.scale.clamp(min=0)
        return -rate[:, None, None] * distance[:, None]


def alibi_slopes(heads: int) -> Float[Tensor, " head"]:
    """Give each head its slope: a geometric series down to 1/256.

    Where heads are no power of 2, the rest lies between the values of the next smaller one.
    """
    power = 2 ** math.floor(math.log2(heads))
    series = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return torch.tensor((series + between)[:heads])
