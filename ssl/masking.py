"""Which tokens the student does not see, on a grid of any number of axes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Generator, Tensor
from torch.nn import functional

_MAX_POOL = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How a view is masked.

    Attributes:
        ratio: fraction of a sample's valid tokens to hide [0–1].
        block: tokens along each axis of a block; odd numbers.
        inverse: blocks are what stays visible, and the rest is hidden (data2vec 2.0, images).
    """

    ratio: float
    block: tuple[int, ...]
    inverse: bool


def block_mask(
    valid: Bool[Tensor, "batch token"],
    grid: tuple[int, ...],
    masking: Masking,
    generator: Generator,
) -> Bool[Tensor, "batch token"]:
    """Choose the tokens to hide; True is hidden from the student.

    Whole blocks of neighbours go together, so that a hidden token cannot be guessed from the one
    beside it: random scores are spread over blocks by a maximum, and the highest are taken. Each
    sample loses exactly `round(ratio * valid tokens)`, at least 1 and never all; padding is not
    chosen.

    Args:
        valid: False where a token is padding.
        grid: tokens along each axis; their product is `token`.
        masking: how much and in which shape.
        generator: the only source of randomness.

    Raises:
        ValueError: if block and grid differ in length, a block's side is even, the ratio leaves
            0–1, or a sample has fewer than two valid tokens.

    Paper: data2vec 2.0 (Baevski et al. 2022), section 3.2, on any grid.
    """
    if len(masking.block) != len(grid) or any(side % 2 == 0 for side in masking.block):
        raise ValueError(f"block {masking.block} needs {len(grid)} odd sides, as the grid {grid}")
    if not 0 < masking.ratio < 1:
        raise ValueError(f"ratio {masking.ratio} is not between 0 and 1")
    count = valid.sum(1)
    if int(count.min()) < 2:
        raise ValueError("a sample has fewer than two valid tokens: none can be hidden and seen")

    scores = torch.rand(len(valid), 1, *grid, generator=generator).to(valid.device)
    padding = [side // 2 for side in masking.block]
    pooled = _MAX_POOL[len(grid) - 1](scores, masking.block, stride=1, padding=padding)
    # The original score breaks ties inside a block, or every trimmed block would lose the same end.
    spread = (pooled + 1e-3 * scores).flatten(1).masked_fill(~valid, -1)

    hidden = (masking.ratio * count).round().long().clamp(min=1)
    hidden = torch.minimum(hidden, count - 1)
    chosen = count - hidden if masking.inverse else hidden
    rank = spread.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    picked = rank < chosen[:, None]
    return valid & ~picked if masking.inverse else picked
