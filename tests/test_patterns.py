import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from winnow.compress.patterns import NM, Blocks, from_matrix, to_matrix
from winnow.compress.sparsity import magnitude_keep

BLOCKS = st.sampled_from([(1, 1), (1, 4), (4, 1), (2, 3), (4, 4)])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
    weight = drawn(rows * block[0], columns * block[1], seed=seed)
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


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), block=BLOCKS)
def test_units_are_joined_to_the_matrix_they_were_cut_from(
    rows: int, columns: int, block: tuple[int, int]
) -> None:
    weight = drawn(rows, columns)
    pattern = Blocks(block=block, pooling="max")
    units = pattern.units(weight)
    assert torch.equal(pattern.join(units, rows, columns), weight)
    assert torch.equal(units[0, 0], functional.pad(weight, (0, 9, 0, 9))[: block[0], : block[1]].flatten())


def test_a_convolution_is_a_matrix_whose_rows_run_along_input_channels() -> None:
    weight = drawn(2, 4, 3, 5)
    matrix = to_matrix(weight)
    expected = [weight[1, channel, 2, 4] for channel in range(4)]  # the last position of the kernel
    assert matrix[1, -4:].tolist() == [float(value) for value in expected]
    assert torch.equal(from_matrix(matrix, weight.shape), weight)
    keep = Blocks(block=(1, 4), pooling="average").best(
        Blocks(block=(1, 4), pooling="average").pool(matrix.abs()), 0.5
    )
    assert keep.shape == (2, 15)  # one block holds all four channels of one position


@given(
    n=st.integers(1, 3),
    extra=st.integers(1, 4),
    rows=st.integers(1, 4),
    groups=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_keeps_the_n_largest_of_each_m_in_a_row(
    n: int, extra: int, rows: int, groups: int, seed: int
) -> None:
    m = n + extra
    pattern = NM(n=n, m=m)
    weight = drawn(rows, groups * m, seed=seed).abs()
    keep = pattern.best(pattern.pool(weight), pattern.sparsity).numpy()
    for row in range(rows):
        for group in range(groups):
            at = np.s_[row, group * m : (group + 1) * m]
            largest = np.sort(weight.numpy()[at])[-n:]
            assert sorted(weight.numpy()[at][keep[at]]) == list(largest)
    assert 1 - keep.mean() == pytest.approx(pattern.sparsity)


def test_n_of_m_comes_step_by_step() -> None:
    pattern, weight = NM(n=2, m=4), torch.tensor([[1.0, 2, 3, 4, 8, 7, 6, 5]])
    kept = [int(pattern.best(weight, sparsity).sum()) for sparsity in (0.0, 0.2, 0.3, 0.49, 0.5)]
    assert kept == [8, 6, 6, 4, 4]


def test_n_of_m_refuses_rows_that_groups_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"rows of head\.weight hold 10 weights.*groups of 4"):
        NM(n=2, m=4).require_fit("head.weight", torch.ones(3, 10))


def test_n_of_m_refuses_another_sparsity_than_its_own() -> None:
    NM(n=2, m=4).require_sparsity(0.5)
    with pytest.raises(ValueError, match=r"2:4 is a sparsity of 0\.5, not 0\.8"):
        NM(n=2, m=4).require_sparsity(0.8)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (5, 4)])
def test_refuses_a_group_that_keeps_nothing_or_everything(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="must hold"):
        NM(n=n, m=m)


def test_refuses_a_block_without_rows() -> None:
    with pytest.raises(ValueError, match="block"):
        Blocks(block=(0, 4), pooling="max")
