import copy

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from winnow.compress.sparsity import (
    Pattern,
    PolynomialDecay,
    Schedule,
    lock,
    magnitude_keep,
    measured_sparsity,
    prunable,
    require_zeros,
)

DECAY = PolynomialDecay(begin=2000, end=5628, frequency=100, power=3.0, initial=0.5, final=0.9)
SCHEDULE = Schedule(begin=0.1, end=0.55, frequency=4, power=3.0, initial=0.0)
PATTERN = Pattern(sparsity=0.75, block=(1, 4), pooling="average")


def test_follows_tensorflows_polynomial_decay() -> None:
    # The formula of TFMOT's PolynomialDecay, written out, on its MNIST tutorial's numbers.
    for step in (0, 2000, 2500, 3814, 5600, 5628, 9000):
        progress = min(1.0, max(0.0, (step - 2000) / (5628 - 2000)))
        expected = (0.5 - 0.9) * (1 - progress) ** 3 + 0.9
        assert DECAY.sparsity(step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("step", "sparsity"), [(0, 0.2), (100, 0.2), (200, 0.5), (300, 0.8), (999, 0.8)])
def test_a_power_of_one_is_a_straight_line(step: int, sparsity: float) -> None:
    decay = PolynomialDecay(begin=100, end=300, frequency=10, power=1.0, initial=0.2, final=0.8)
    assert decay.sparsity(step) == pytest.approx(sparsity)


def test_prunes_at_multiples_of_the_frequency_and_at_both_ends() -> None:
    decay = PolynomialDecay(begin=5, end=20, frequency=5, power=3.0, initial=0.0, final=0.5)
    assert [step for step in range(40) if decay.should_prune(step)] == [5, 10, 15, 20]


@pytest.mark.parametrize(
    "change", [{"begin": -1}, {"end": 1}, {"frequency": 0}, {"final": 1.0}, {"initial": 0.95}]
)
def test_refuses_an_impossible_schedule(change: dict[str, float]) -> None:
    settings = {"begin": 2, "end": 9, "frequency": 1, "power": 3.0, "initial": 0.1, "final": 0.9}
    with pytest.raises(ValueError, match="must"):
        PolynomialDecay(**{**settings, **change})


BLOCKS = st.sampled_from([(1, 1), (1, 4), (4, 1), (2, 3), (4, 4)])


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    block=BLOCKS,
    sparsity=st.floats(0, 0.999),
    pooling=st.sampled_from(["average", "max"]),
    seed=st.integers(0, 99),
)
def test_keeps_exactly_the_asked_number_of_whole_blocks_of_largest_magnitude(
    rows: int, columns: int, block: tuple[int, int], sparsity: float, pooling: str, seed: int
) -> None:
    weight = torch.randn(rows * block[0], columns * block[1], generator=torch.Generator().manual_seed(seed))
    keep = magnitude_keep(weight, sparsity, block, pooling)  # type: ignore[arg-type]
    kept, pruned = [], []
    for row in range(rows):
        for column in range(columns):
            at = (
                slice(row * block[0], (row + 1) * block[0]),
                slice(column * block[1], (column + 1) * block[1]),
            )
            assert keep[at].all() or not keep[at].any()
            magnitude = weight[at].abs()
            score = float(magnitude.mean() if pooling == "average" else magnitude.max())
            (kept if keep[at].any() else pruned).append(score)
    assert len(kept) == max(round(rows * columns * (1 - sparsity)), 1)
    assert min(kept) >= max(pruned, default=0.0) - 1e-6


def test_the_first_of_equal_weights_are_kept() -> None:
    keep = magnitude_keep(torch.ones(2, 4), 0.625, (1, 1), "average")
    assert keep.tolist() == [[True, True, True, False], [False] * 4]


def test_fills_up_a_matrix_that_the_block_does_not_divide() -> None:
    weight = torch.tensor([[1.0, 1, 1, 1, 3], [0, 0, 0, 0, 0]])
    # The last block holds 3 and three zeros that are not there: 3/4 on average, 3 at most.
    assert magnitude_keep(weight, 0.75, (1, 4), "average")[0].tolist() == [True] * 4 + [False]
    assert magnitude_keep(weight, 0.75, (1, 4), "max")[0].tolist() == [False] * 4 + [True]


def test_prunes_the_six_matrices_of_every_layer_and_nothing_else() -> None:
    expected = {
        f"encoder.layers.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("fc1", "fc2", *(f"attention.{p}" for p in ("query", "key", "value", "out")))
    }
    assert set(prunable(tiny.classifier())) == expected


def test_a_lock_finds_the_pattern_and_a_deep_copy_keeps_it() -> None:
    model = tiny.classifier()
    keep = tiny.sparsify(model)
    assert all(bool((lock(model)[name] == keep[name]).all()) for name in keep)
    require_zeros(copy.deepcopy(model), keep)
    assert measured_sparsity(model) == 0.75


def test_a_weight_that_came_back_is_not_saved() -> None:
    model = tiny.classifier()
    keep = tiny.sparsify(model)
    name, weight = next(iter(prunable(model).items()))
    with torch.no_grad():
        weight[~keep[name]] = 1e-30
    with pytest.raises(RuntimeError, match=name):
        require_zeros(model, keep)
