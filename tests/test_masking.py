import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from randomness import draws
from torch import Tensor

from winnow.data.batches import stream
from winnow.ssl.draws import Draws
from winnow.ssl.masking import Blocks, Rectangles, Spans

GRIDS = [((40,), (5,)), ((9, 9), (3, 3)), ((8, 6), (1, 3)), ((4, 4, 4), (3, 3, 3))]


def size(grid: tuple[int, ...]) -> int:
    return int(torch.tensor(grid).prod())


def draw(
    valid: Tensor,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    ratio: float = 0.5,
    inverse: bool = False,
    seed: int = 0,
    adjust: float = 0.0,
) -> Tensor:
    masking = Blocks(ratio=ratio, adjust=adjust, block=block, inverse=inverse)
    return masking(valid, grid, draws(len(valid), seed))


@given(
    which=st.sampled_from(GRIDS),
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    ratio=st.floats(0.01, 0.99),
    inverse=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_hides_exactly_the_asked_fraction_of_valid_tokens_and_no_padding(
    which: tuple[tuple[int, ...], tuple[int, ...]],
    lengths: list[int],
    ratio: float,
    inverse: bool,
    seed: int,
) -> None:
    grid, block = which
    # Padding in arbitrary places: a row of a 2-D grid that ends in the middle is possible too.
    places = torch.rand(len(lengths), size(grid), generator=torch.Generator().manual_seed(seed))
    valid = places.argsort(1) < torch.tensor(lengths)[:, None]
    mask = draw(valid, grid, block, ratio, inverse, seed)
    assert mask.dtype == torch.bool and mask.shape == valid.shape
    assert not (mask & ~valid).any()
    for row, length in zip(mask, lengths, strict=True):
        share = 1 - ratio if inverse else ratio
        chosen = min(max(int(torch.tensor(share * length) + 1e-6), 1), length - 1)
        assert int(row.sum()) == (length - chosen if inverse else chosen)


def neighbours_hidden(mask: Tensor, grid: tuple[int, ...]) -> float:
    """The share of the neighbours of hidden tokens that are hidden."""
    mask = mask.unflatten(1, grid)
    together = alone = 0
    for axis in range(1, mask.ndim):
        side = mask.shape[axis]
        a, b = mask.narrow(axis, 0, side - 1), mask.narrow(axis, 1, side - 1)
        together += 2 * int((a & b).sum())
        alone += int((a ^ b).sum())
    return together / (together + alone)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("grid", "block"), [((40,), (5,)), ((9, 9), (3, 3))])
def test_hides_blocks_and_not_scattered_tokens(
    grid: tuple[int, ...], block: tuple[int, ...], inverse: bool
) -> None:
    valid = torch.ones(200, size(grid), dtype=torch.bool)
    scattered = draw(valid, grid, (1,) * len(grid))
    assert neighbours_hidden(scattered, grid) == pytest.approx(0.5, abs=0.03)
    assert neighbours_hidden(draw(valid, grid, block, inverse=inverse, adjust=0.2), grid) > 0.7


def test_inverse_blocks_are_what_stays_visible() -> None:
    """With few tokens chosen, each sits in a whole block: of the hidden, or of the seen."""
    valid, grid = torch.ones(100, 81, dtype=torch.bool), (9, 9)
    hidden = draw(valid, grid, (3, 3), ratio=9 / 81)
    seen = ~draw(valid, grid, (3, 3), ratio=72 / 81, inverse=True)
    assert torch.equal(hidden, seen)  # the same generator, the opposite reading


def test_as_many_tokens_as_a_block_holds_are_one_block() -> None:
    valid, grid = torch.ones(50, 81, dtype=torch.bool), (9, 9)
    for row in draw(valid, grid, (3, 3), ratio=9 / 81).unflatten(1, grid):
        places = row.nonzero()
        spread = places.max(0).values - places.min(0).values
        # At the border a block is cut off, and what is missing is begun elsewhere.
        if places.min() > 0 and places.max() < 8:
            assert (spread <= 2).all()


def test_every_place_is_hidden_about_as_often_in_the_middle() -> None:
    valid = torch.ones(4000, 40, dtype=torch.bool)
    often = draw(valid, (40,), (5,)).float().mean(0)
    assert often[5:-5].std() < 0.03
    assert (often > 0.25).all() and (often < 0.75).all()


def test_depends_on_the_generator_alone() -> None:
    valid = torch.ones(4, 40, dtype=torch.bool)
    torch.manual_seed(1)
    one = draw(valid, (40,), (5,), seed=3)
    torch.manual_seed(2)
    assert torch.equal(one, draw(valid, (40,), (5,), seed=3))
    assert not torch.equal(one, draw(valid, (40,), (5,), seed=4))
    drawn, masking = draws(4, 3), Blocks(ratio=0.5, adjust=0.0, block=(5,), inverse=False)
    first, second = (masking(valid, (40,), drawn) for _ in range(2))
    assert torch.equal(one, first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("masking", "grid"),
    [
        (Blocks(ratio=0.5, adjust=0.1, block=(5,), inverse=False), (40,)),
        (Blocks(ratio=0.5, adjust=0.1, block=(3, 3), inverse=True), (5, 8)),
        (Rectangles(ratio=0.5, min_tokens=4, min_aspect=0.3), (5, 8)),
    ],
    ids=["blocks", "inverse", "rectangles"],
)
def test_a_sample_is_masked_alike_whatever_lies_beside_it(
    masking: Blocks | Rectangles, grid: tuple[int, ...]
) -> None:
    """Two views of six samples, in one batch and in two whose padding differs."""
    valid = torch.arange(40) < torch.tensor([40, 7, 20, 9, 15, 8])[:, None].repeat_interleave(2, 0)
    whole = masking(valid, grid, draws(6, each=2))
    for part in (slice(0, 1), slice(1, 6)):
        generators = [stream(0, "test", place) for place in range(6)[part]]
        rows = slice(2 * part.start, 2 * part.stop)
        assert torch.equal(masking(valid[rows], grid, Draws(generators, 2)), whole[rows])


def test_samples_of_a_batch_get_masks_of_their_own() -> None:
    mask = draw(torch.ones(64, 40, dtype=torch.bool), (40,), (5,))
    assert len({tuple(row.tolist()) for row in mask}) > 60


@pytest.mark.parametrize(
    ("block", "ratio", "lengths", "message"),
    [
        ((3, 3), 0.5, 8, "needs 1 odd sides"),
        ((4,), 0.5, 8, "odd sides"),
        ((3,), 0.0, 8, "ratio 0.0 is not between"),
        ((3,), 1.0, 8, "ratio 1.0 is not between"),
        ((3,), 0.5, 1, "fewer than two valid tokens"),
    ],
)
def test_refuses_what_cannot_be_masked(
    block: tuple[int, ...], ratio: float, lengths: int, message: str
) -> None:
    valid = torch.arange(8) < torch.tensor([8, lengths])[:, None]
    with pytest.raises(ValueError, match=message):
        draw(valid, (8,), block, ratio)


# --- the first data2vec -------------------------------------------------------------------------


def runs_of(row: Tensor) -> list[int]:
    """The lengths of the runs of hidden tokens."""
    text = "".join("x" if hidden else " " for hidden in row.tolist())
    return [len(run) for run in text.split()]


def test_spans_start_as_often_as_asked_and_hide_about_as_much_as_published() -> None:
    """wav2vec's 65 % in spans of 10 hide 49 % of the frames of a long recording."""
    valid = torch.ones(64, 500, dtype=torch.bool)
    rows = [Spans(ratio=0.65, length=10)(valid[:1], (500,), draws(1, i)) for i in range(64)]
    assert float(torch.cat(rows).float().mean()) == pytest.approx(0.49, abs=0.02)
    assert min(length for row in rows for length in runs_of(row[0])) >= 10  # a row alone is not thinned


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    ratio=st.floats(0.05, 0.95),
    length=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_spans_hide_as_many_tokens_of_every_row_and_never_all_or_padding(
    lengths: list[int], ratio: float, length: int, seed: int
) -> None:
    valid = torch.arange(40) < torch.tensor(lengths)[:, None]
    mask = Spans(ratio=ratio, length=length)(valid, (40,), draws(len(valid), seed))
    counts = mask.sum(1)
    assert not (mask & ~valid).any()
    assert int(counts.min()) == int(counts.max()) >= 1
    assert (counts < valid.sum(1)).all()


def test_rectangles_hide_up_to_the_asked_share_in_whole_rectangles() -> None:
    """BEiT's 120 of 196 patches, of which the smallest rectangle has 16."""
    valid = torch.ones(200, 196, dtype=torch.bool)
    masking = Rectangles(ratio=120.5 / 196, min_tokens=16, min_aspect=0.3)
    counts = masking(valid, (14, 14), draws(len(valid))).sum(1)
    assert int(counts.max()) <= 120
    assert 105 <= float(counts.float().mean()) <= 120
    mask = masking(valid, (14, 14), draws(len(valid)))
    assert neighbours_hidden(mask, (14, 14)) > 0.8


def test_a_rectangles_sides_differ_by_the_asked_factor_at_most() -> None:
    valid = torch.ones(300, 400, dtype=torch.bool)
    masking = Rectangles(ratio=40.5 / 400, min_tokens=40, min_aspect=0.3)  # room for one
    for row in masking(valid, (20, 20), draws(len(valid))).unflatten(1, (20, 20)):
        places = row.nonzero()
        tall, wide = (places.max(0).values - places.min(0).values + 1).tolist()
        assert tall * wide == int(row.sum()) or tall * wide > 40  # a second, small one found a place
        if tall * wide == int(row.sum()):
            assert 0.25 <= tall / wide <= 4


@pytest.mark.parametrize(
    ("masking", "grid", "message"),
    [
        (Spans(ratio=0.5, length=3), (4, 4), "spans need a grid of one axis"),
        (Spans(ratio=1.0, length=3), (16,), "ratio 1.0 is not between"),
        (Rectangles(ratio=0.5, min_tokens=4, min_aspect=0.3), (16,), "rectangles need a grid of two axes"),
        (Rectangles(ratio=0.1, min_tokens=4, min_aspect=0.3), (4, 4), "1 tokens to hide are fewer than"),
    ],
)
def test_refuses_grids_that_a_kind_of_mask_is_not_for(
    masking: Spans | Rectangles, grid: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        masking(torch.ones(2, 16, dtype=torch.bool), grid, draws(2))
