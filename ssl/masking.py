"""Which tokens the student does not see: three ways to choose them, each of one of the papers.

All take `valid`, False where a token is padding, and give the mask, True where a token is hidden. Padding is
never chosen, and of every sample something is hidden and something seen.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn import functional

from winnow.ssl.draws import Draws

_MAX_POOL = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_ATTEMPTS = 10  # to place one rectangle


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Blocks of neighbours go together, so that a hidden token cannot be guessed from the one beside it.

    Centres are drawn, with replacement, and grown to blocks; then tokens are taken away or added at random
    until the count is exact. Blocks of one token choose tokens independently.

    Attributes:
        ratio: fraction of a sample's valid tokens to hide; what is chosen, to hide or to see, is rounded
            down [0–1].
        adjust: added to it for the number of centres, as blocks overlap and leave the grid [0–1].
        block: tokens along each axis of a block; odd numbers.
        inverse: blocks are what stays visible, and the rest is hidden (data2vec 2.0, images).

    Paper: data2vec 2.0 (Baevski et al. 2022, arXiv 2212.07525), section 3.2, on any grid.
    """

    ratio: float
    adjust: float
    block: tuple[int, ...]
    inverse: bool

    def __call__(
        self, valid: Bool[Tensor, "batch token"], grid: tuple[int, ...], draws: Draws
    ) -> Bool[Tensor, "batch token"]:
        """Draw a mask.

        Raises:
            ValueError: if block and grid differ in length, a block's side is even, the ratio leaves 0–1, or
                a sample has fewer than two valid tokens.
        """
        if len(self.block) != len(grid) or any(side % 2 == 0 for side in self.block):
            raise ValueError(f"block {self.block} needs {len(grid)} odd sides, as the grid {grid}")
        count = _counted(valid, self.ratio)
        share = 1 - self.ratio if self.inverse else self.ratio
        chosen = (share * count + 1e-6).long().clamp(min=1).minimum(count - 1)
        centres = ((share + self.adjust) * count / math.prod(self.block) + 1e-6).long()

        # As many as a sample without padding has: what a row draws does not depend on the others.
        most = int((share + self.adjust) * math.prod(grid) / math.prod(self.block) + 1e-6)
        centre = _drawn(valid, centres, max(most, 1), draws).view(-1, 1, *grid)
        padding = [side // 2 for side in self.block]
        grown = _MAX_POOL[len(grid) - 1](centre, self.block, stride=1, padding=padding).flatten(1)
        picked = _highest(grown + _scores(valid, draws), chosen)
        return valid & ~picked if self.inverse else picked


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Spans of one length that may overlap, so that fewer tokens than asked are hidden (data2vec).

    Every row is thinned at random to as many hidden tokens as the row that has fewest of those beside it: the
    one mask that depends on how samples are batched, as the published one does.

    Attributes:
        ratio: of the tokens, if no spans overlapped [0–1].
        length: of a span.

    Paper: wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477), section 3.1.
    """

    ratio: float
    length: int

    def __call__(
        self, valid: Bool[Tensor, "batch token"], grid: tuple[int, ...], draws: Draws
    ) -> Bool[Tensor, "batch token"]:
        """Draw a mask.

        Raises:
            ValueError: if the grid has several axes, the ratio leaves 0–1, or a sample has too few tokens.
        """
        if len(grid) != 1:
            raise ValueError(f"spans need a grid of one axis, not {grid}")
        count = _counted(valid, self.ratio)
        odd = draws.uniform().to(valid.device)
        number = (self.ratio * count / self.length + odd).long().clamp(min=1)
        # A span lies within its sample, as far as that is long enough.
        last = (count - self.length).clamp(min=0)
        starts = torch.arange(valid.shape[1], device=valid.device) <= last[:, None]
        start = _highest(_scores(starts, draws), number.minimum(last + 1))
        before = functional.pad(start.float()[:, None], (self.length - 1, 0))
        mask = functional.max_pool1d(before, self.length, stride=1)[:, 0].bool() & valid
        fewest = int(mask.sum(1).minimum(count - 1).min())
        return _highest(_scores(mask, draws), torch.full_like(count, fewest))


@dataclass(frozen=True, kw_only=True)
class Rectangles:
    """Rectangles of random size and shape, one beside the other, until enough is hidden (data2vec, images).

    Attributes:
        ratio: of the tokens, at most; a last rectangle that does not fit is left out [0–1].
        min_tokens: of a rectangle.
        min_aspect: of its sides, as of their inverse (0–1].

    Paper: BEiT (Bao et al. 2021, arXiv 2106.08254), algorithm 1.
    """

    ratio: float
    min_tokens: int
    min_aspect: float

    def __call__(
        self, valid: Bool[Tensor, "batch token"], grid: tuple[int, ...], draws: Draws
    ) -> Bool[Tensor, "batch token"]:
        """Draw a mask.

        Raises:
            ValueError: if the grid has not two axes, the ratio leaves 0–1, or no rectangle can fit.
        """
        if len(grid) != 2:
            raise ValueError(f"rectangles need a grid of two axes, not {grid}")
        _counted(valid, self.ratio)
        wanted = int(self.ratio * math.prod(grid))
        if wanted < self.min_tokens:
            raise ValueError(f"{wanted} tokens to hide are fewer than a rectangle's {self.min_tokens}")
        masks = np.stack([self._one(grid, wanted, generator) for generator in draws.rows])
        return torch.from_numpy(masks).to(valid.device) & valid

    def _one(self, grid: tuple[int, ...], wanted: int, generator: Generator) -> Bool[np.ndarray, " token"]:
        mask = np.zeros(grid, bool)  # as cutting an array this small takes torch ten times as long
        hidden = 0
        while hidden < wanted and (added := self._add(mask, wanted - hidden, generator)):
            hidden += added
        if not hidden:  # for once, no rectangle fitted: the smallest one does
            mask.flat[: self.min_tokens] = True
        return mask.ravel()

    def _add(self, mask: Bool[np.ndarray, "row column"], room: int, generator: Generator) -> int:
        for _ in range(_ATTEMPTS):
            size, shape, *where = torch.rand(4, generator=generator).tolist()
            area = self.min_tokens + size * max(room - self.min_tokens, 0)
            aspect = self.min_aspect ** (1 - 2 * shape)
            sides = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not all(0 < side < whole for side, whole in zip(sides, mask.shape, strict=True)):
                continue
            top, left = (
                int(at * (whole - side + 1)) for at, whole, side in zip(where, mask.shape, sides, strict=True)
            )
            part = mask[top : top + sides[0], left : left + sides[1]]
            added = part.size - int(part.sum())
            if 0 < added <= room:
                part[...] = True
                return added
        return 0


Masking: TypeAlias = Blocks | Spans | Rectangles


def _counted(valid: Bool[Tensor, "batch token"], ratio: float) -> Int[Tensor, " batch"]:
    if not 0 < ratio < 1:
        raise ValueError(f"ratio {ratio} is not between 0 and 1")
    count = valid.sum(1)
    if int(count.min()) < 2:
        raise ValueError("a sample has fewer than two valid tokens: none can be hidden and seen")
    return count


def _drawn(
    valid: Bool[Tensor, "batch token"], number: Int[Tensor, " batch"], most: int, draws: Draws
) -> Float[Tensor, "batch token"]:
    """Draw valid tokens, `most` of a row at most, with replacement: 1 where one was drawn."""
    order = valid.int().argsort(dim=1, descending=True, stable=True)
    drawn = draws.uniform(most).to(valid.device) * valid.sum(1, keepdim=True)
    counts = torch.arange(most, device=valid.device) < number[:, None]
    places = order.gather(1, drawn.long())
    return torch.zeros(valid.shape, device=valid.device).scatter_reduce(1, places, counts.float(), "amax")


def _scores(among: Bool[Tensor, "batch token"], draws: Draws) -> Tensor:
    """Give random numbers [0–1), and below all of them where a token is not to be chosen."""
    drawn = draws.uniform(among.shape[1]).to(among.device)
    return drawn.masked_fill(~among, -2)


def _highest(scores: Tensor, number: Int[Tensor, " batch"]) -> Bool[Tensor, "batch token"]:
    """Choose as many of each row as told."""
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < number[:, None]
