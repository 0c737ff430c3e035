"""What pruning one layer alone does to the loss of the whole network."""

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import nn

from winnow.compress.allocation import Curves, layerwise
from winnow.compress.patterns import Pattern
from winnow.compress.scores import Magnitude
from winnow.compress.sparsity import Choice, keep_best, prunable

LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # where the curves bend


@torch.no_grad()
def scan(
    model: nn.Module,
    loss: Callable[[], float],
    pattern: Pattern,
    levels: Sequence[float] = LEVELS,
    choose: Choice | None = None,
) -> pd.DataFrame:
    """Prune each weight alone, by magnitude, to rising sparsities; the network is left as it was.

    Args:
        model: a trained network.
        loss: of the network as it then is, on samples it was not trained on.
        pattern: what is pruned together.
        levels: sparsities, rising (0–1).
        choose: which weights; see `winnow.compress.sparsity.prunable`.

    Returns:
        A row for each weight and level, from 0 on: `name, weights, sparsity, loss`.
    """
    dense, rows = loss(), []
    for name, weight in prunable(model, choose).items():
        rows.append((name, weight.numel(), 0.0, dense))
        whole = weight.clone()
        for level in levels:
            keep = keep_best({name: whole}, level, pattern, Magnitude(), layerwise)[name]
            weight.copy_(whole.masked_fill(~keep, 0))
            rows.append((name, weight.numel(), level, loss()))
        weight.copy_(whole)
    return pd.DataFrame(rows, columns=["name", "weights", "sparsity", "loss"])


def curves(table: pd.DataFrame) -> Curves:
    """Give a scan's rows by name, as `winnow.compress.allocation.by_sensitivity` takes them."""
    return {
        str(name): list(zip(rows["sparsity"], rows["loss"], strict=True))
        for name, rows in table.groupby("name", sort=False)
    }
