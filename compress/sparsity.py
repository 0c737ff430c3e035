"""Which weights are zero: schedules, block patterns and masks.

Semantics are those of TensorFlow's pruning API: a pruned weight is overwritten, there is no dense
copy behind it. It can only come back if one optimizer step lifts it over the next threshold. In
return a model is sparse as it stands: names stay, and saving and copying need nothing more.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

Pooling = Literal["average", "max"]


@dataclass(frozen=True, kw_only=True)
class PolynomialDecay:
    """Sparsity that rises from `initial` to `final` between two steps.

    Attributes:
        begin: first step at which weights are pruned.
        end: last such step.
        frequency: steps between two refreshes of the masks.
        power: of the polynomial; 3 prunes most of it early, while the model can still recover.
        initial: sparsity at `begin` [0–1).
        final: sparsity from `end` on [0–1).

    Raises:
        ValueError: if a value is outside of its range.

    Paper: To prune, or not to prune (Zhu and Gupta 2017, arXiv 1710.01878), section 3.
    """

    begin: int
    end: int
    frequency: int
    power: float
    initial: float
    final: float

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end:
            raise ValueError(f"0 ≤ begin ≤ end must hold, not begin {self.begin}, end {self.end}")
        if self.frequency < 1:
            raise ValueError(f"frequency must be at least 1, not {self.frequency}")
        if not 0 <= self.initial <= self.final < 1:
            raise ValueError(f"0 ≤ initial ≤ final < 1 must hold, not {self.initial}, {self.final}")

    def should_prune(self, step: int) -> bool:
        """Say whether masks are refreshed at a step; both ends count."""
        return self.begin <= step <= self.end and (step - self.begin) % self.frequency == 0

    def sparsity(self, step: int) -> float:
        """Give the sparsity at a step, as a fraction of zeros [0–1)."""
        progress = min(max((step - self.begin) / max(self.end - self.begin, 1), 0.0), 1.0)
        return self.final + (self.initial - self.final) * (1 - progress) ** self.power


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A `PolynomialDecay` for a run of any length.

    Attributes:
        begin: fraction of the run before the first weight is pruned [0–1].
        end: fraction of the run after which masks stay [0–1]; what follows is recovery.
        frequency: steps between two refreshes of the masks.
        power: of the polynomial.
        initial: sparsity at `begin` [0–1).
    """

    begin: float
    end: float
    frequency: int
    power: float
    initial: float

    def over(self, steps: int, final: float) -> PolynomialDecay:
        """Lay the schedule over a run of `steps` optimizer steps that ends at sparsity `final`."""
        return PolynomialDecay(
            begin=round(self.begin * steps),
            end=round(self.end * steps),
            frequency=self.frequency,
            power=self.power,
            initial=self.initial,
            final=final,
        )


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Which weights are pruned together.

    Attributes:
        sparsity: fraction of blocks that are zero in the end [0–1).
        block: rows and columns of a block; (1, 1) is unstructured, (1, 4) what int8 kernels like.
        pooling: what stands for a block: its average or its largest magnitude.
    """

    sparsity: float
    block: tuple[int, int]
    pooling: Pooling


def magnitude_keep(
    weight: Float[Tensor, "row column"], sparsity: float, block: tuple[int, int], pooling: Pooling
) -> Bool[Tensor, "row column"]:
    """Keep the blocks of largest magnitude: exactly as many as asked for, at least one.

    A matrix that the block does not divide is filled up with zeros. Of equal blocks, the first in
    row-major order is kept.

    Args:
        weight: a matrix.
        sparsity: fraction of blocks to prune, rounded to whole blocks [0–1).
        block: rows and columns of a block.
        pooling: what stands for a block.
    """
    rows, columns = block
    lower, right = -weight.shape[0] % rows, -weight.shape[1] % columns
    padded = functional.pad(weight.detach().abs(), (0, right, 0, lower))
    blocks = padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))  # [R, r, C, c]
    score = blocks.mean((1, 3)) if pooling == "average" else blocks.amax((1, 3))
    kept = max(round(score.numel() * (1 - sparsity)), 1)
    order = score.flatten().argsort(descending=True, stable=True)
    keep = torch.zeros_like(order, dtype=torch.bool)
    keep[order[:kept]] = True
    spread = keep.view_as(score).repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return spread[: weight.shape[0], : weight.shape[1]]


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give the matrices of the trunk's layers by name: attention's four and the feed-forward two.

    Frontend, embeddings, norms and head stay dense: they are small, and all else depends on them.
    """
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if "layers" in name.split(".") and parameter.dim() == 2
    }


def lock(model: nn.Module) -> dict[str, Bool[Tensor, "row column"]]:
    """Read the pattern off a sparse model: keep what is not zero.

    Paper: Prune Once for All (Zafrir et al. 2021, arXiv 2111.05754), section 3.3, pattern-lock.
    """
    return {name: weight.detach() != 0 for name, weight in prunable(model).items()}


def measured_sparsity(model: nn.Module) -> float:
    """Count the zeros among all prunable weights, as a fraction [0–1]."""
    weights = list(prunable(model).values())
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / sum(weight.numel() for weight in weights)


def require_zeros(model: nn.Module, keep: dict[str, Bool[Tensor, "row column"]]) -> None:
    """Make sure that a model is as sparse as its masks say, before it is saved.

    Raises:
        RuntimeError: if a pruned weight is not exactly zero.
    """
    for name, weight in prunable(model).items():
        alive = int(weight[~keep[name]].count_nonzero())
        if alive:
            raise RuntimeError(f"{alive} pruned weights of {name} are not zero")
