"""Tokens of which only some count: gather them, average them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def gather_tokens(
    x: Float[Tensor, "batch token dim"], chosen: Bool[Tensor, "batch token"]
) -> tuple[Float[Tensor, "batch seen dim"], Bool[Tensor, "batch seen"], Int[Tensor, "batch seen"]]:
    """Keep each row's chosen tokens, in order; shorter rows are filled up with unchosen ones.

    Returns:
        The tokens, where they are chosen ones, and their places on the grid.
    """
    count = chosen.sum(1)
    place = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : int(count.max())]
    seen = torch.arange(place.shape[1], device=x.device) < count[:, None]
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[2])), seen, place


def pool(x: Float[Tensor, "batch seen dim"], valid: Bool[Tensor, "batch seen"]) -> Float[Tensor, "batch dim"]:
    """Average the valid tokens of each sample."""
    weight = valid.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
