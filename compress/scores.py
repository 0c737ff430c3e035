"""How much a weight matters: its magnitude, its movement in training, or what its loss would cost.

A score tells what a pattern is to keep, one number for each of the pattern's units. Scores that need
gradients watch them after every backward pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from winnow.compress.patterns import Pattern, from_matrix, to_matrix

# Of the block-diagonal Fisher matrix. oBERT's 50 for single weights, as a power of two; larger blocks know
# more and take memory in proportion [weights].
FISHER_BLOCK = 64
# Share of the mean of the diagonal that is added to it: few gradients span few directions, and what is made
# up for along others ruins more than it saves.
DAMPING = 0.1


class Score(ABC):
    """Judges weights by name, after what it has seen of their gradients, if it needs them."""

    needs_gradients = False
    forgets = False  # what it has seen, once masks were chosen by it

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    @abstractmethod
    def units(self, name: str, weight: Tensor, pattern: Pattern) -> Float[Tensor, "R C"]:
        """Give each unit of a pattern its score; the highest are kept.

        Raises:
            RuntimeError: if the score needs gradients and has seen none.
        """

    def make_up(self, name: str, weight: Tensor, keep: Bool[Tensor, "..."], pattern: Pattern) -> Tensor:
        """Give the weight whose kept part stands in for what is now pruned."""
        return weight

    @torch.no_grad()
    def watch(self, weights: Mapping[str, Tensor], pattern: Pattern) -> None:
        """Take in the weights' gradients, after a backward pass and before the optimizer's step."""
        for name, weight in weights.items():
            if self.needs_gradients and weight.grad is not None:
                new = self.look(weight, weight.grad, pattern)
                self.seen[name] = self.seen[name].to(new.device) + new if name in self.seen else new

    def look(self, weight: Tensor, gradient: Tensor, pattern: Pattern) -> Tensor:
        """Give what a gradient adds to what was seen."""
        raise NotImplementedError

    def of(self, name: str) -> Tensor:
        """Give what was seen of a weight.

        Raises:
            RuntimeError: if nothing was.
        """
        if name not in self.seen:
            raise RuntimeError(f"{type(self).__name__} has seen no gradient of {name}; it must watch first")
        return self.seen[name]

    def refreshed(self) -> None:
        """Take note that masks were chosen by what was watched until now."""
        if self.forgets:
            self.seen = {}


class Magnitude(Score):
    """Keeps what is far from zero.

    Paper: To prune, or not to prune (Zhu and Gupta 2017, arXiv 1710.01878), section 3.
    """

    def units(self, name: str, weight: Tensor, pattern: Pattern) -> Float[Tensor, "R C"]:
        return pattern.pool(to_matrix(weight.detach().abs()))


class Movement(Score):
    """Keeps what training moves away from zero: minus the sum of weight times gradient.

    A pruned weight is zero, and so does not move; it comes back if others fall below it.

    Paper: Movement Pruning (Sanh et al. 2020, arXiv 2005.07683), section 4.
    """

    needs_gradients = True

    def look(self, weight: Tensor, gradient: Tensor, pattern: Pattern) -> Tensor:
        return -weight * gradient

    def units(self, name: str, weight: Tensor, pattern: Pattern) -> Float[Tensor, "R C"]:
        return pattern.pool(to_matrix(self.of(name)))


class BlockFisher(Score):
    """Keeps what the loss would suffer most from losing, after the kept weights have made up for it.

    Curvature is the empirical Fisher matrix of the gradients since the last refresh, of which blocks along
    the diagonal are held: of units of the pattern that follow each other, row by row. They take `size` times
    the memory of the weights.

    Args:
        size: of a block; at least one unit is in it [weights].
        damping: added to the diagonal, as a share of its mean.

    Paper: The Optimal BERT Surgeon (Kurtic et al. 2022, arXiv 2203.07259), section 3.
    """

    needs_gradients = True
    forgets = True  # curvature is that of the weights as they are

    def __init__(self, size: int = FISHER_BLOCK, damping: float = DAMPING) -> None:
        super().__init__()
        self.size, self.damping = size, damping

    def look(self, weight: Tensor, gradient: Tensor, pattern: Pattern) -> Float[Tensor, "block B B"]:
        blocks = self.blocks(gradient, pattern)
        return blocks[:, :, None] * blocks[:, None, :]

    def blocks(self, weight: Tensor, pattern: Pattern) -> Float[Tensor, "block B"]:
        """Cut a weight, or anything of its shape, into the blocks whose curvature is known."""
        units = pattern.units(to_matrix(weight)).flatten(0, 1)
        size = min(max(self.size // units.shape[1], 1), len(units))  # [units]
        return functional.pad(units, (0, 0, 0, -len(units) % size)).unflatten(0, (-1, size)).flatten(1)

    def fisher(self, name: str) -> Float[Tensor, "block B B"]:
        """Give the damped matrix, but for a factor: only ratios matter, of scores and of weights."""
        seen = self.of(name)
        diagonal = seen.diagonal(dim1=1, dim2=2)
        # Where no weight ever has a gradient (of channels that are always zero), any pruning is free.
        floor = torch.finfo(seen.dtype).tiny ** 0.5
        return seen + (self.damping * diagonal.mean() + floor) * torch.eye(seen.shape[1], device=seen.device)

    def units(self, name: str, weight: Tensor, pattern: Pattern) -> Float[Tensor, "R C"]:
        grid = pattern.units(to_matrix(weight.detach()))  # [R, C, member]
        member = grid.shape[2]
        inverse = torch.linalg.inv(self.fisher(name))
        size = inverse.shape[1] // member
        square = inverse.unflatten(2, (size, member)).unflatten(1, (size, member))
        own = square.diagonal(dim1=1, dim2=3).movedim(-1, 1).flatten(0, 1)  # [unit, member, member]
        values = self.blocks(weight.detach(), pattern).unflatten(1, (size, member)).flatten(0, 1)
        score = (values * torch.linalg.solve(own, values)).sum(1) / 2
        return score[: grid.shape[0] * grid.shape[1]].view(grid.shape[:2])

    def make_up(self, name: str, weight: Tensor, keep: Bool[Tensor, "..."], pattern: Pattern) -> Tensor:
        """Solve for the kept weights that leave the loss where it was, as far as curvature tells.

        Paper: The Optimal BERT Surgeon, equation 5, for all pruned weights of a block at once.
        """
        fisher = self.fisher(name)
        values = self.blocks(weight, pattern)
        kept = self.blocks(keep.to(weight.dtype), pattern)
        # F_kk δ_k = F_kp w_p; the pruned rows and columns become those of a unit matrix.
        system = fisher * kept[:, :, None] * kept[:, None, :] + torch.diag_embed(1 - kept)
        lost = (fisher @ (values * (1 - kept))[..., None])[..., 0] * kept
        moved = values * kept + torch.linalg.solve(system, lost)
        return self._whole(moved, weight, pattern)

    def _whole(self, blocks: Float[Tensor, "block B"], weight: Tensor, pattern: Pattern) -> Tensor:
        """Undo `blocks`."""
        matrix = to_matrix(weight)
        grid = pattern.units(matrix)
        cut = blocks.reshape(-1, grid.shape[2])[: grid.shape[0] * grid.shape[1]].view(grid.shape)
        return from_matrix(pattern.join(cut, *matrix.shape), weight.shape)
