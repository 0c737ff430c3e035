"""Random numbers of which each sample has its own, whatever lies beside it in a batch."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor


class Draws:
    """Random numbers for the rows of a batch.

    A row's numbers come from its own generator. A batch therefore draws the same for its samples, whether it
    is one, or split over processes or over accumulated batches.

    Args:
        generators: one for each sample.
        each: rows of a sample, one behind the other; they take turns with its generator.
    """

    def __init__(self, generators: Sequence[Generator], each: int = 1) -> None:
        self._generators, self._each = generators, each

    @property
    def rows(self) -> list[Generator]:
        """The generator of each row."""
        return [generator for generator in self._generators for _ in range(self._each)]

    def uniform(self, *shape: int) -> Float[Tensor, "batch ..."]:
        """Draw numbers from [0–1)."""
        return self._of_rows(torch.rand, shape)

    def normal(self, *shape: int) -> Float[Tensor, "batch ..."]:
        """Draw normal numbers."""
        return self._of_rows(torch.randn, shape)

    def _of_rows(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        return torch.cat([draw(self._each, *shape, generator=one) for one in self._generators])
