"""Which layer bears how much of the sparsity that is asked of all: each the same, or by need.

An allocation gives every pruned weight a sparsity of its own, such that all of them together have the one
that is asked for. It is called anew at every refresh of the masks.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Scope = Literal["layer", "global", "erk", "sensitivity"]
# Loss of a network in which a layer alone is pruned: per layer, sparsity and loss [nats], sparsity rising.
Curves = Mapping[str, list[tuple[float, float]]]

Weights = Mapping[str, Tensor]
Scores = Mapping[str, Float[Tensor, "_ _"]]
Allocation = Callable[[Weights, Scores, float], dict[str, float]]


def layerwise(weights: Weights, scores: Scores, sparsity: float) -> dict[str, float]:
    """Prune the same fraction of each weight."""
    return dict.fromkeys(weights, sparsity)


def overall(weights: Weights, scores: Scores, sparsity: float) -> dict[str, float]:
    """Compare the scores of all weights with each other: one threshold for the whole network.

    The best of each weight is kept in any case: a matrix of zeros would cut the network in two.
    """
    flat = [scores[name].flatten() for name in weights]
    ranks = torch.cat([score.scatter(0, score.argmax(0, keepdim=True), torch.inf) for score in flat])
    kept = max(round(len(ranks) * (1 - sparsity)), len(flat))
    chosen = ranks.argsort(descending=True, stable=True)[:kept]
    sizes = [len(score) for score in flat]
    ends = torch.tensor(sizes, device=chosen.device).cumsum(0)
    counts = torch.bucketize(chosen, ends, right=True).bincount(minlength=len(sizes)).tolist()
    return {name: 1 - count / size for name, count, size in zip(weights, counts, sizes, strict=True)}


def erdos_renyi_kernel(weights: Weights, scores: Scores, sparsity: float) -> dict[str, float]:
    """Keep more of small and narrow weights: the kept fraction goes by the sum of a shape over its product.

    Paper: Rigging the Lottery (Evci et al. 2020, arXiv 1911.11134), section 3, Erdős–Rényi-Kernel.
    """
    size = {name: weight.numel() for name, weight in weights.items()}
    raw = {name: sum(weight.shape) / weight.numel() for name, weight in weights.items()}
    left, rest = (1 - sparsity) * sum(size.values()), list(weights)
    dense: set[str] = set()
    while True:
        factor = left / sum(raw[name] * size[name] for name in rest)
        full = {name for name in rest if factor * raw[name] >= 1}
        if not full:
            break
        # A fraction cannot exceed 1; what these cannot take is left to the others.
        dense |= full
        rest = [name for name in rest if name not in full]
        left -= sum(size[name] for name in full)
        if not rest:
            break
    return {name: 0.0 if name in dense else 1 - factor * raw[name] for name in weights}


def by_sensitivity(curves: Curves) -> Allocation:
    """Prune where a scan says that it costs least, as if the layers' costs added up.

    Each layer's loss is taken as the convex curve below what was measured, so that the cheapest next step
    is always the right one, and a higher sparsity never gives a layer weights back.

    Args:
        curves: of every pruned weight; levels from 0 on.
    """
    steps = {name: _convex(curve) for name, curve in curves.items()}

    def allocate(weights: Weights, scores: Scores, sparsity: float) -> dict[str, float]:
        size = {name: weight.numel() for name, weight in weights.items()}
        found = dict.fromkeys(weights, 0.0)
        missing = sparsity * sum(size.values())
        edges = [
            ((loss - before) / ((level - start) * size[name]), start, name, level)
            for name in weights
            for (start, before), (level, loss) in zip(steps[name], steps[name][1:], strict=False)
        ]
        for _, start, name, level in sorted(edges):
            taken = min((level - start) * size[name], missing)
            found[name] = start + taken / size[name]
            missing -= taken
            if missing <= 0:
                return found
        raise ValueError(
            f"a sparsity of {sparsity:g} is beyond what was scanned: the levels allow "
            f"{sum(found[name] * size[name] for name in weights) / sum(size.values()):g} at most"
        )

    return allocate


def _convex(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Give the lower convex hull of a curve, which starts at its first point."""
    hull: list[tuple[float, float]] = []
    for x, y in curve:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
