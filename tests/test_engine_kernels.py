import numpy as np
import pytest
from compiling import require_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.compress.engine import plan, running
from winnow.compress.engine.plan import Levels, Matrix

require_compiler()
SETS = running.instructions()
each_set = pytest.mark.parametrize("instructions", SETS)
each_block = pytest.mark.parametrize("block", [None, plan.DENSE, *plan.BLOCKS])


def sparse(
    rows: int, columns: int, density: float, zero_point: int, seed: int = 0, largest: int = 127
) -> Matrix:
    drawn = np.random.default_rng(seed)
    weight = drawn.integers(-largest, largest + 1, (rows, columns))
    weight *= drawn.random((rows, columns)) < density
    bias = drawn.integers(-(2**20), 2**20, rows).astype(np.int32)
    return Matrix(weight.astype(np.int8), np.ones(rows, np.float32), bias, Levels(1.0, zero_point))


def levels(tokens: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (tokens, columns)).astype(np.uint8)


def exact(matrix: Matrix, x: np.ndarray) -> np.ndarray:
    sums = (x.astype(np.int64) - matrix.input.zero_point) @ matrix.weight.astype(np.int64).T
    return sums if matrix.bias is None else sums + matrix.bias


@each_set
@each_block
@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 150),
    tokens=st.integers(1, 140),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    zero_point=st.integers(0, 255),
    seed=st.integers(0, 2**32),
    largest=st.sampled_from([7, 63, 70, 127]),  # of weights: none, few or most are too large for 16 bits
)
def test_sums_are_those_of_int64(
    instructions: str,
    block: int | None,
    rows: int,
    columns: int,
    tokens: int,
    density: float,
    zero_point: int,
    seed: int,
    largest: int,
) -> None:
    matrix = sparse(rows, columns, density, zero_point, seed, largest)
    x = levels(tokens, columns, seed)
    found, _ = running.product(matrix, x, block, instructions)
    np.testing.assert_array_equal(found, exact(matrix, x))


@each_set
@each_block
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_numbers_do_not_saturate(instructions: str, block: int | None, sign: int) -> None:
    # Pairs of 255 · 127 do not fit into 16 bits: the usual byte product of AVX2 would cut them off.
    weight = np.full((8, 4096), sign * 127, np.int8)
    matrix = Matrix(weight, np.ones(8, np.float32), None, Levels(1.0, 0))
    x = np.full((17, 4096), 255, np.uint8)
    found, _ = running.product(matrix, x, block, instructions)
    assert (found == sign * 127 * 255 * 4096).all()


@each_set
@each_block
def test_neighbours_at_the_edge_of_16_bits_are_exact(instructions: str, block: int | None) -> None:
    # 255 · 128 is the most that fits; weights beyond it are halved where that saves time.
    fit, others = (
        [(64, 64), (127, 1), (1, 127), (-64, -64), (-128, 0)],
        [(127, 2), (65, 64), (-128, -128), (127, -127)],
    )
    pairs = fit + others
    weight = np.zeros((4 * len(pairs), 64), np.int8)
    for row in range(len(weight)):
        weight[row, 4 * (row % 16) :][:4] = [*pairs[row % len(pairs)], *pairs[(row + row // 9) % len(pairs)]]
    matrix = Matrix(weight, np.ones(len(weight), np.float32), None, Levels(1.0, 3))
    for x in (levels(70, 64), np.full((70, 64), 255, np.uint8)):
        found, _ = running.product(matrix, x, block, instructions)
        np.testing.assert_array_equal(found, exact(matrix, x))


def test_the_blocks_that_promise_most_are_chosen() -> None:
    def chosen(block: tuple[int, int], sparsity: float, instructions: str = "avx512_vnni") -> int:
        keep = np.random.default_rng(0).random((64 // block[0], 64 // block[1])) >= sparsity
        return plan.fastest(np.kron(keep, np.ones(block)).astype(np.int8), instructions)

    assert chosen((1, 4), 0.0) == plan.DENSE
    assert chosen((1, 4), 0.9) == 1
    assert chosen((2, 4), 0.9) == 2
    assert chosen((4, 4), 0.9) == 4
    assert chosen((1, 4), 0.5) == plan.DENSE
    assert chosen((1, 4), 0.5, "avx2") == 1


def test_a_matrix_takes_only_as_many_channels_as_it_has_columns() -> None:
    with pytest.raises(ValueError, match="3 channels do not go into a matrix of 4 columns"):
        running.product(sparse(4, 4, 1.0, 0), levels(2, 3))


def test_instructions_that_no_machine_has_are_refused() -> None:
    with pytest.raises(ValueError, match="no such instructions"):
        running.product(sparse(4, 4, 1.0, 0), levels(2, 4), instructions="avx1024")
