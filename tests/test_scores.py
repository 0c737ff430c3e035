from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional

from winnow.compress.patterns import NM, UNSTRUCTURED, Blocks, Pattern
from winnow.compress.scores import BlockFisher, Magnitude, Movement, Score
from winnow.compress.sparsity import Pruner, prunable, prune

WIDE = Blocks(block=(1, 4), pooling="average")
TALL = Blocks(block=(2, 2), pooling="average")


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 6, generator=generator) * torch.tensor([3.0, 1, 1, 0.5, 0.1, 1])
    return x, (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 1).long()


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 4)


def gradients(model: nn.Linear, number: int) -> list[Tensor]:
    found = []
    for seed in range(number):
        x, label = batch(seed)
        loss = functional.cross_entropy(model(x), label)
        found.append(torch.autograd.grad(loss, model.weight)[0])
    return found


def watched(score: Any, model: nn.Linear, number: int, pattern: Pattern) -> Any:
    for gradient in gradients(model, number):
        model.weight.grad = gradient
        score.watch({"weight": model.weight}, pattern)
    return score


def ordered(weight: Tensor, pattern: Pattern) -> Tensor:
    """Number the weights of a matrix as the pattern's units follow each other."""
    return pattern.units(torch.arange(weight.numel(), dtype=torch.float).view(weight.shape)).flatten().long()


def dense_fisher(model: nn.Linear, number: int, pattern: Pattern, size: int, damping: float) -> Tensor:
    """The whole matrix of all weights, in double precision; outside of the diagonal's blocks, zeros."""
    flat = torch.stack([g.flatten()[ordered(g, pattern)] for g in gradients(model, number)]).double()
    whole = flat.T @ flat
    block = torch.arange(len(whole)) // size
    whole = whole * (block[:, None] == block)
    return whole + damping * whole.diagonal().mean() * torch.eye(len(whole), dtype=torch.float64)


@pytest.mark.parametrize(("pattern", "member"), [(UNSTRUCTURED, 1), (TALL, 4), (NM(n=1, m=3), 1)])
@pytest.mark.parametrize("size", [4, 8, 24])
def test_block_fisher_scores_as_a_dense_inverse_does(pattern: Pattern, member: int, size: int) -> None:
    model = network()
    score = watched(BlockFisher(size=size, damping=0.01), model, 10, pattern)
    inverse = torch.linalg.inv(dense_fisher(model, 10, pattern, size, 0.01))
    weight = model.weight.detach().flatten()[ordered(model.weight, pattern)].double()
    expected = []
    for first in range(0, 24, member):
        unit = slice(first, first + member)
        expected.append(weight[unit] @ torch.linalg.inv(inverse[unit, unit]) @ weight[unit] / 2)
    found = score.units("weight", model.weight, pattern).flatten()
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("pattern", [UNSTRUCTURED, TALL])
@pytest.mark.parametrize("size", [8, 24])
def test_what_is_kept_makes_up_for_what_is_pruned_as_the_surgeons_formula_says(
    pattern: Pattern, size: int
) -> None:
    model = network()
    score = watched(BlockFisher(size=size, damping=0.01), model, 10, pattern)
    chosen = pattern.best(score.units("weight", model.weight, pattern), 0.5)[..., None]
    keep = pattern.join(chosen, *model.weight.shape)
    found = score.make_up("weight", model.weight.detach(), keep, pattern).masked_fill(~keep, 0)
    # Paper: The Optimal BERT Surgeon, equation 5, with the inverse of the whole matrix.
    place = ordered(model.weight, pattern)
    inverse = torch.linalg.inv(dense_fisher(model, 10, pattern, size, 0.01))
    weight, out = model.weight.detach().flatten()[place].double(), ~keep.flatten()[place]
    change = -inverse[:, out] @ torch.linalg.inv(inverse[out][:, out]) @ weight[out]
    expected = (weight + change)[place.argsort()].view(4, 6)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


def test_a_network_pruned_by_curvature_and_made_up_for_loses_least() -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(start.parameters(), lr=0.01)
    for seed in range(300):
        x, label = batch(seed)
        optimizer.zero_grad()
        functional.cross_entropy(start(x), label).backward()
        optimizer.step()
    x, label = (torch.cat(parts) for parts in zip(*(batch(s) for s in range(1000, 1050)), strict=True))

    def loss(score: Score, pattern: Pattern) -> float:
        model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
        model.load_state_dict(start.state_dict())
        for seed in range(300, 450):
            part, told = batch(seed)
            model.zero_grad()
            functional.cross_entropy(model(part), told).backward()
            score.watch(prunable(model), pattern)
        prune(model, 0.6, pattern, score)
        return float(functional.cross_entropy(model(x), label).detach())

    without = BlockFisher()
    without.make_up = Score.make_up.__get__(without)  # type: ignore[method-assign]
    by = [loss(score, UNSTRUCTURED) for score in (BlockFisher(), without, Magnitude())]
    assert by[0] < by[1] < by[2]


def test_movement_is_minus_the_sum_of_weight_times_gradient() -> None:
    model = network()
    score = watched(Movement(), model, 5, UNSTRUCTURED)
    expected = -model.weight.detach() * torch.stack(gradients(model, 5)).sum(0)
    torch.testing.assert_close(score.units("weight", model.weight, UNSTRUCTURED), expected)
    pooled = score.units("weight", model.weight, TALL)
    assert pooled[0, 0] == pytest.approx(float(expected[:2, :2].mean()), rel=1e-5)


def test_movement_keeps_small_weights_that_grow_and_magnitude_does_not() -> None:
    model = nn.Linear(2, 1, bias=False)
    movement = Movement()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.1]]))
    for _ in range(20):  # the first is pushed to zero, the second away from it
        model.weight.grad = torch.tensor([[1.0, -1.0]])
        movement.watch({"weight": model.weight}, UNSTRUCTURED)
        with torch.no_grad():
            model.weight -= 0.01 * model.weight.grad
    kept = prune(model, 0.5, score=movement)["weight"]
    assert kept.tolist() == [[False, True]]


def test_a_score_that_needs_gradients_says_whose_it_has_not_seen() -> None:
    for score in (Movement(), BlockFisher()):
        with pytest.raises(RuntimeError, match=r"seen no gradient of .*query\.weight"):
            prune(tiny.classifier(), 0.5, score=score)


def test_a_weight_that_never_has_a_gradient_costs_what_the_damping_says() -> None:
    model, score = network(), BlockFisher(size=6, damping=0.1)
    for gradient in gradients(model, 5):
        gradient[:, 2] = 0
        model.weight.grad = gradient
        score.watch({"weight": model.weight}, UNSTRUCTURED)
    found = score.units("weight", model.weight, UNSTRUCTURED)
    mean = score.seen["weight"].diagonal(dim1=1, dim2=2).mean()
    torch.testing.assert_close(found[:, 2], 0.1 * mean * model.weight.detach()[:, 2] ** 2 / 2)
    model.weight.grad = torch.zeros_like(model.weight)
    silent = BlockFisher()
    silent.watch({"weight": model.weight}, UNSTRUCTURED)
    assert torch.isfinite(silent.units("weight", model.weight, UNSTRUCTURED)).all()


def test_curvature_is_that_since_the_last_refresh_and_movement_that_of_the_whole_run() -> None:
    for score, remembers in ((BlockFisher(), False), (Movement(), True)):
        model, pruner = network(), Pruner(score=score)
        for gradient in gradients(model, 3):
            model.weight.grad = gradient
            pruner.watch(model)
        pruner.refresh(model, 0.5)
        assert bool(score.seen) is remembers
