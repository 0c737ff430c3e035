"""Which weights are pruned together: single ones, blocks of a matrix, or n of each m in a row.

All patterns see a weight as a matrix of [output, input]. Of a convolution, a row is one output channel, and
in it the input channels of a kernel position stand side by side: what int8 kernels read in one go is
`[height, width, channel]`, so that blocks and groups run along channels, as in TensorFlow's pruning API.
An embedding is already rows by columns, and a recurrent weight has one row for each gate of each unit.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional

Pooling = Literal["average", "max"]


def to_matrix(weight: Tensor) -> Float[Tensor, "row column"]:
    """Give a weight's matrix: a convolution's input channels become the fastest axis of its rows."""
    return weight.movedim(1, -1).flatten(1)


def from_matrix(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Give a matrix the shape of the weight that `to_matrix` made it from."""
    outputs, inputs, *kernel = shape
    return matrix.reshape(outputs, *kernel, inputs).movedim(-1, 1)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Whole blocks of a matrix. One that the block does not divide is filled up with zeros.

    Attributes:
        block: rows and columns of a block; (1, 1) is unstructured, (1, 4) what int8 kernels like.
        pooling: what stands for a block: its average or its largest score.

    Raises:
        ValueError: if a block has no rows or no columns.
    """

    block: tuple[int, int]
    pooling: Pooling

    def __post_init__(self) -> None:
        if min(self.block) < 1:
            raise ValueError(f"block must have rows and columns, not {self.block}")

    def require_fit(self, name: str, matrix: Float[Tensor, "row column"]) -> None:
        """Accept every matrix."""

    def require_sparsity(self, sparsity: float) -> None:
        """Accept every sparsity."""

    def units(self, matrix: Float[Tensor, "row column"]) -> Float[Tensor, "R C member"]:
        """Cut a matrix into its blocks."""
        return self._cut(matrix).transpose(1, 2).flatten(2)

    def pool(self, scores: Float[Tensor, "row column"]) -> Float[Tensor, "R C"]:
        """Give each block one score out of those of its weights."""
        cut = self._cut(scores)
        return cut.mean((1, 3)) if self.pooling == "average" else cut.amax((1, 3))

    def best(self, scores: Float[Tensor, "R C"], sparsity: float) -> Bool[Tensor, "R C"]:
        """Keep the blocks of highest score: exactly as many as asked for, at least one.

        Of equal blocks, the first in row-major order is kept.
        """
        kept = max(round(scores.numel() * (1 - sparsity)), 1)
        order = scores.flatten().argsort(descending=True, stable=True)
        keep = torch.zeros_like(order, dtype=torch.bool)
        keep[order[:kept]] = True
        return keep.view_as(scores)

    def join(self, units: Shaped[Tensor, "R C _"], rows: int, columns: int) -> Shaped[Tensor, "row column"]:
        """Undo `units`; what is said of a block as a whole holds for each of its weights."""
        cut = units.expand(-1, -1, self.block[0] * self.block[1]).unflatten(2, self.block).transpose(1, 2)
        return cut.flatten(2).flatten(0, 1)[:rows, :columns]

    def _cut(self, matrix: Float[Tensor, "row column"]) -> Float[Tensor, "R r C c"]:
        rows, columns = self.block
        lower, right = -matrix.shape[0] % rows, -matrix.shape[1] % columns
        padded = functional.pad(matrix, (0, right, 0, lower))
        return padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))


@dataclass(frozen=True, kw_only=True)
class NM:
    """Of each m weights that follow each other in a row, the n of highest score are kept.

    On the way to its sparsity of 1 - n/m, more of each group are kept, all groups alike.

    Attributes:
        n: kept weights of a group.
        m: weights of a group; 2:4 is what sparse tensor cores multiply.

    Raises:
        ValueError: unless 0 < n < m.

    Paper: Accelerating Sparse Deep Neural Networks (Mishra et al. 2021, arXiv 2104.08378), section 3.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise ValueError(f"0 < n < m must hold, not {self.n}:{self.m}")

    @property
    def sparsity(self) -> float:
        return 1 - self.n / self.m

    def require_fit(self, name: str, matrix: Float[Tensor, "row column"]) -> None:
        """Make sure that groups fill the rows.

        Raises:
            ValueError: if they do not.
        """
        if matrix.shape[1] % self.m:
            raise ValueError(
                f"rows of {name} hold {matrix.shape[1]} weights, which groups of {self.m} do not divide: "
                f"{self.n}:{self.m} cannot prune it"
            )

    def require_sparsity(self, sparsity: float) -> None:
        """Make sure that no more is asked for than the pattern takes.

        Raises:
            ValueError: if another sparsity than 1 - n/m is asked for in the end.
        """
        if abs(sparsity - self.sparsity) > 1e-6:
            raise ValueError(f"{self.n}:{self.m} is a sparsity of {self.sparsity:g}, not {sparsity:g}")

    def units(self, matrix: Float[Tensor, "row column"]) -> Float[Tensor, "R C 1"]:
        """Give each weight alone: within a group, each is kept or not for itself."""
        return matrix[..., None]

    def pool(self, scores: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
        """Leave each weight its score."""
        return scores

    def best(self, scores: Float[Tensor, "row column"], sparsity: float) -> Bool[Tensor, "row column"]:
        """Keep the same number in each group; of equal weights, the first."""
        kept = max(round(self.m * (1 - sparsity)), self.n)
        order = scores.unflatten(1, (-1, self.m)).argsort(dim=2, descending=True, stable=True)
        keep = torch.zeros_like(order, dtype=torch.bool).scatter_(2, order[..., :kept], True)
        return keep.flatten(1)

    def join(self, units: Shaped[Tensor, "R C 1"], rows: int, columns: int) -> Shaped[Tensor, "row column"]:
        """Undo `units`."""
        return units[..., 0]


Pattern = Blocks | NM
UNSTRUCTURED = Blocks(block=(1, 1), pooling="average")
