import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.compress import layout
from winnow.compress.layout import INDICES, Layout


def blocky(shape: tuple[int, int], block: tuple[int, int], density: float, seed: int = 0) -> np.ndarray:
    """Random weights, of which a fraction of blocks is kept."""
    random = np.random.default_rng(seed)
    grid = random.random((-(-shape[0] // block[0]), -(-shape[1] // block[1]))) < density
    keep = grid.repeat(block[0], 0).repeat(block[1], 1)[: shape[0], : shape[1]]
    values = np.clip(np.round(random.normal(0, 35, shape)), -127, 127)
    return (np.where(values == 0, 1, values) * keep).astype(np.int8)


@pytest.mark.parametrize("kind", INDICES)
@given(
    count=st.integers(1, 700),
    density=st.sampled_from([0.0, 0.003, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_an_index_gives_back_which_blocks_are_kept(kind: str, count: int, density: float, seed: int) -> None:
    keep = np.random.default_rng(seed).random(count) < density
    assert np.array_equal(layout.unindex(kind, layout.index(kind, keep), count), keep)


def test_gaps_are_counted_as_the_format_says() -> None:
    keep = np.zeros(600, bool)
    keep[[0, 1, 17, 33, 300, 556]] = True
    assert layout.index("gap8", keep).tolist() == [0, 0, 15, 15, 255, 11, 255, 0]
    nibbles = [int(n) for byte in layout.index("gap4", keep) for n in (byte & 15, byte >> 4)]
    assert nibbles[:6] == [0, 0, 15, 0, 15, 0]
    assert layout.index("bitmap", keep[:10]).tolist() == [3, 0]


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    block=st.sampled_from([(1, 1), (1, 4), (4, 1), (2, 4), (4, 4), (3, 2)]),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.9, 1.0]),
    code=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_chosen_gives_back_the_matrix(
    rows: int, columns: int, block: tuple[int, int], density: float, code: bool, seed: int
) -> None:
    matrix = blocky((rows, columns), block, density, seed)
    how = layout.choose(matrix, code)
    if how.kind == "dense":
        return
    index, values, kept = layout.sparse(matrix, how)
    entries = how.block[0] * how.block[1]
    count = matrix.size // entries
    keep = layout.unindex(how.kind, np.frombuffer(index, np.uint8), count)
    blocks = np.zeros((count, entries), np.int8)
    blocks[keep] = np.frombuffer(values, np.int8).reshape(kept, entries)
    assert np.array_equal(layout.unblocks(blocks, (rows, columns), how.block), matrix)


@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 4), (4, 4), (1, 1)])
def test_finds_the_blocks_that_weights_were_pruned_in(block: tuple[int, int]) -> None:
    matrix = blocky((128, 192), block, 0.1)
    assert layout.choose(matrix, code=False).block == block
    # Coded, a bit for each weight of a block may say the same in as little.
    how = layout.choose(matrix, code=True)
    assert len(layout.sparse(matrix, how)[1]) == np.count_nonzero(matrix)


def test_chooses_by_how_much_is_kept() -> None:
    kinds = [layout.choose(blocky((256, 256), (1, 1), d), code=False).kind for d in (0.01, 0.1, 0.5, 1.0)]
    assert kinds == ["gap8", "gap4", "bitmap", "dense"]


def test_a_block_that_does_not_divide_a_matrix_is_none() -> None:
    found = layout.keeps(blocky((6, 10), (1, 1), 0.5))
    assert set(found) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    matrix = blocky((64, 48), (1, 1), 0.02)
    for (high, wide), keep in layout.keeps(matrix).items():
        naive = layout.blocks(matrix, (high, wide)).any(1)
        assert np.array_equal(keep.ravel(), naive)


@pytest.mark.parametrize(
    ("kind", "symbols", "count"),
    [("gap8", [9], 9), ("gap8", [255, 5], 260), ("gap4", [0x0F], 15), ("bitmap", [1], 9), ("bitmap", [2], 1)],
)
def test_an_index_of_other_blocks_is_refused(kind: str, symbols: list[int], count: int) -> None:
    with pytest.raises(ValueError):
        layout.unindex(kind, np.array(symbols, np.uint8), count)


def test_says_how_it_was_laid_down() -> None:
    assert layout.choose(np.ones((8, 8), np.int8), code=True) == Layout("dense", (1, 1))
