import copy

import pytest
import tiny
import torch
from torch.nn import functional

from winnow.compress import sensitivity
from winnow.compress.allocation import by_sensitivity
from winnow.compress.patterns import UNSTRUCTURED, Blocks
from winnow.compress.sparsity import measured_sparsity, prunable, prune


@torch.no_grad()
def loss(model: torch.nn.Module) -> float:
    samples = tiny.samples(32, seed=9)
    return float(functional.cross_entropy(model(samples.x), samples.label))


def test_a_scan_prunes_one_matrix_at_a_time_and_leaves_the_network_as_it_was() -> None:
    model = tiny.classifier()
    before = copy.deepcopy(model.state_dict())
    table = sensitivity.scan(model, lambda: loss(model), Blocks(block=(1, 4), pooling="max"), (0.5, 0.9))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    names = list(prunable(model))
    assert list(table["name"]) == [name for name in names for _ in range(3)]
    assert set(table.loc[table["sparsity"] == 0, "loss"]) == {loss(model)}
    for name in names[:2]:
        alone = copy.deepcopy(model)
        prune(alone, 0.9, Blocks(block=(1, 4), pooling="max"), choose=lambda n, w, name=name: n == name)
        told = table.query("name == @name and sparsity == 0.9")["loss"].item()
        assert told == pytest.approx(loss(alone))


def test_prunes_most_where_the_scan_says_that_it_costs_nothing() -> None:
    model = tiny.classifier()
    silent = "encoder.layers.1.fc2.weight"
    with torch.no_grad():
        model.get_parameter(silent).mul_(1e-6)
    x = tiny.samples(32, seed=9).x
    whole = model(x).detach()
    table = sensitivity.scan(model, lambda: float(functional.mse_loss(model(x), whole)), UNSTRUCTURED)
    keep = prune(model, 0.5, allocate=by_sensitivity(sensitivity.curves(table)))
    assert measured_sparsity(model) == pytest.approx(0.5, abs=1e-3)
    assert float(keep[silent].float().mean()) <= 0.02
