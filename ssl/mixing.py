"""Attention's two products: a part of its own, without weights, which `compress` has an int8 form of."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional


class Mixing(nn.Module):
    """Multiplies queries by keys, and what softmax makes of that by values.

    Args:
        dropout: probability that a token is not read.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(
        self,
        q: Float[Tensor, "batch head seen width"],
        k: Float[Tensor, "batch head seen width"],
        v: Float[Tensor, "batch head seen width"],
        allowed: Shaped[Tensor, "one_or_batch one_or_head one_or_seen seen"] | None,
    ) -> Float[Tensor, "batch head seen width"]:
        dropout = self.dropout if self.training else 0.0
        attend = functional.scaled_dot_product_attention
        if not (q.is_cpu and torch.is_autocast_enabled("cpu")):
            return attend(q, k, v, allowed, dropout)
        # A CPU's kernel takes four to eight times as long in 16 bits as in 32 (AMD EPYC with AVX512-BF16).
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), allowed, dropout)
