import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from winnow.compress.allocation import by_sensitivity, erdos_renyi_kernel, layerwise, overall
from winnow.compress.patterns import UNSTRUCTURED
from winnow.compress.scores import Magnitude
from winnow.compress.sparsity import measured_sparsity, prune

SHAPES = {"stem": (16, 1, 5, 5), "table": (200, 16), "wide": (64, 256), "head": (10, 64)}


def drawn() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * size
        for size, (name, shape) in enumerate(SHAPES.items(), 1)
    }


def scored(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: Magnitude().units(name, weight, UNSTRUCTURED) for name, weight in weights.items()}


def mean(shares: dict[str, float], weights: dict[str, Tensor]) -> float:
    zeros = sum(shares[name] * weight.numel() for name, weight in weights.items())
    return zeros / sum(weight.numel() for weight in weights.values())


@given(sparsity=st.floats(0, 0.99))
def test_what_the_weights_bear_adds_up_to_what_is_asked_for(sparsity: float) -> None:
    weights = drawn()
    curves = {name: [(0.0, 1.0), (0.5, 1.0 + i), (0.99, 3.0 + i)] for i, name in enumerate(weights)}
    for allocate in (layerwise, erdos_renyi_kernel, by_sensitivity(curves)):
        shares = allocate(weights, {}, sparsity)
        assert list(shares) == list(weights)
        assert all(-1e-9 <= share < 1 for share in shares.values())
        assert mean(shares, weights) == pytest.approx(sparsity, abs=1e-6)
    total = sum(weight.numel() for weight in weights.values())
    assert mean(overall(weights, scored(weights), sparsity), weights) == pytest.approx(
        1 - max(round(total * (1 - sparsity)), 4) / total
    )


@pytest.mark.parametrize("sparsity", [0.1, 0.35, 0.9])
def test_a_threshold_for_all_keeps_the_largest_of_all(sparsity: float) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3))
    all_weights = torch.cat([m.weight.detach().abs().flatten() for m in (model[0], model[2], model[3])])
    keep = prune(model, sparsity, allocate=overall)
    found = torch.cat([keep[f"{i}.weight"].flatten() for i in (0, 2, 3)])
    assert int(found.sum()) == max(round(len(all_weights) * (1 - sparsity)), 3)
    # None is emptied; but for the best of each, the kept ones are the largest.
    assert all(keep[f"{i}.weight"].any() for i in (0, 2, 3))
    best = torch.cat([(m == m.max()).flatten() for m in all_weights.split([36, 128, 24])])
    assert all_weights[found & ~best].min() >= all_weights[~found].max()


def test_erdos_renyi_kernel_keeps_small_matrices_and_shares_the_rest_by_shape() -> None:
    shares = erdos_renyi_kernel(drawn(), {}, 0.5)
    assert shares["stem"] == 0.0  # 400 weights
    density = {name: (1 - share) for name, share in shares.items() if share}
    raw = {name: sum(SHAPES[name]) / np.prod(SHAPES[name]) for name in density}
    ratios = [density[name] / raw[name] for name in density]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_a_scan_gives_each_matrix_the_sparsity_that_costs_least_of_all() -> None:
    levels = (0.0, 0.25, 0.5, 0.75)
    costs = {"stem": (0.0, 0.5, 1.5, 4.0), "table": (0.0, 0.1, 0.2, 2.0), "wide": (0.0, 0.2, 0.9, 1.7)}
    weights = {name: torch.ones(4, 4) for name in costs}
    allocate = by_sensitivity({n: list(zip(levels, cost, strict=True)) for n, cost in costs.items()})
    for total in range(10):
        shares = allocate(weights, {}, total / 12)
        cost = sum(np.interp(shares[name], levels, costs[name]) for name in costs)
        tried = [
            sum(costs[name][i] for name, i in zip(costs, places, strict=True))
            for places in itertools.product(range(4), repeat=3)
            if sum(places) == total
        ]
        assert cost == pytest.approx(min(tried))


def test_a_higher_sparsity_gives_no_matrix_weights_back() -> None:
    # A scan is noisy: this curve falls and bends both ways.
    curve = [(0.0, 1.0), (0.2, 0.9), (0.4, 1.4), (0.6, 1.1), (0.8, 2.0), (0.99, 2.1)]
    allocate = by_sensitivity({name: curve[: 6 - i] for i, name in enumerate(("stem", "wide"))})
    weights = {name: weight for name, weight in drawn().items() if name in ("stem", "wide")}
    shares = [list(allocate(weights, {}, sparsity).values()) for sparsity in np.linspace(0, 0.79, 40)]
    assert (np.diff(shares, axis=0) >= -1e-9).all()


def test_a_sparsity_beyond_what_was_scanned_is_refused() -> None:
    allocate = by_sensitivity({"wide": [(0.0, 1.0), (0.9, 2.0)]})
    with pytest.raises(ValueError, match=r"0\.95 is beyond.*0\.9 at most"):
        allocate({"wide": torch.ones(5, 5)}, {}, 0.95)


def test_a_whole_network_is_pruned_by_any_allocation() -> None:
    for allocate in (layerwise, overall, erdos_renyi_kernel):
        model = nn.GRU(24, 32, num_layers=2)
        prune(model, 0.9, allocate=allocate)
        assert measured_sparsity(model) == pytest.approx(0.9, abs=1e-3)
