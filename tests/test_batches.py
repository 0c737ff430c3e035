import itertools
from functools import partial
from pathlib import Path

import pytest
import runs
import torch
from torch import Generator, Tensor

from winnow.data import store
from winnow.data.batches import Batch, SplitBatches, TrainBatches, Variants, cut, stack, stream
from winnow.data.modality import Modality
from winnow.data.store import read_classes
from winnow.data.vision import Vision

NUMBER = 10


ONE = Variants(number=1, strength=1.0)


class Plain(Vision):
    """Vision whose training variants are the samples themselves, or only what the generator drew."""

    def __init__(self, drawn: bool = False) -> None:
        super().__init__(size=8, patch=4, channels=1)
        self.drawn = drawn

    def transform(self, x: Tensor, generator: Generator, strength: float) -> Tensor:
        draw = torch.rand((), generator=generator)
        return draw if self.drawn else x


def batches(
    steps: int,
    batch_size: int = 4,
    seed: int = 0,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
    drawn: bool = False,
    variants: Variants = ONE,
) -> list[Batch]:
    """Take batches of ten numbered samples."""
    samples = Batch(torch.arange(NUMBER), torch.arange(NUMBER) + 100, torch.arange(NUMBER))
    stream_of = TrainBatches(
        samples,
        Plain(drawn),
        variants=variants,
        batch_size=batch_size,
        seed=seed,
        start=start,
        rank=rank,
        ranks=ranks,
    )
    return list(itertools.islice(stream_of, steps))


def numbers(taken: list[Batch]) -> list[int]:
    return torch.cat([batch.x for batch in taken]).tolist()


def test_variants_of_a_sample_lie_side_by_side_and_differ() -> None:
    two = batches(3, drawn=True, variants=Variants(number=2, strength=1.0))
    for batch in two:
        assert len(batch.x) == 8 and len(batch.x.unique()) == 8
        assert torch.equal(batch.label[::2], batch.label[1::2])
        assert torch.equal(batch.place[::2], batch.place[1::2]) and len(batch.place.unique()) == 4
    alone = batches(3)
    assert [batch.label[::2].tolist() for batch in two] == [batch.label.tolist() for batch in alone]


def test_an_epoch_is_a_permutation_also_where_batches_reach_over_its_end() -> None:
    taken = numbers(batches(15))  # 60 samples: six epochs of ten, in batches of four
    epochs = [taken[i : i + NUMBER] for i in range(0, 60, NUMBER)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUMBER))
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_labels_stay_with_their_samples() -> None:
    for batch in batches(10):
        assert torch.equal(batch.label, batch.x + 100)


def test_a_batch_may_be_larger_than_the_dataset() -> None:
    (batch,) = batches(1, batch_size=25)
    assert sorted(batch.x[:10].tolist()) == sorted(batch.x[10:20].tolist()) == list(range(NUMBER))


def test_a_resumed_stream_is_the_tail_of_the_whole_one() -> None:
    for drawn in (False, True):
        whole = batches(12, drawn=drawn)
        for start in (1, 5, 11):
            rest = batches(12 - start, start=start, drawn=drawn)
            runs.assert_same(rest, whole[start:])


def test_ranks_partition_the_batches_of_one() -> None:
    one = batches(9, batch_size=6)
    parts = [batches(9, batch_size=2, rank=rank, ranks=3) for rank in range(3)]
    for step in range(9):
        together = [part[step].x.tolist() for part in parts]
        taken = list(itertools.chain(*zip(*together, strict=True)))
        assert taken == one[step].x.tolist()


def test_variants_are_the_same_however_a_batch_is_split() -> None:
    one = batches(6, batch_size=6, drawn=True)
    ranks = [batches(6, batch_size=3, rank=rank, ranks=2, drawn=True) for rank in range(2)]
    accumulated = batches(12, batch_size=3, drawn=True)
    for step in range(6):
        together = torch.stack([part[step].x for part in ranks], 1).flatten()
        assert torch.equal(together, one[step].x)
        assert torch.equal(torch.cat([part.x for part in accumulated[2 * step : 2 * step + 2]]), one[step].x)
        assert torch.equal(torch.stack([part[step].place for part in ranks], 1).flatten(), one[step].place)


@pytest.mark.parametrize("number", [2, 9, 16, 17, 40])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_validate_every_sample_once_in_equally_many_batches(number: int, ranks: int) -> None:
    if number < ranks:
        with pytest.raises(ValueError, match="2 samples to score cannot be split over 4 processes"):
            validation(number, 0, ranks)
        return
    parts = [validation(number, rank, ranks) for rank in range(ranks)]
    whole = validation(number, 0, 1)
    assert {len(part) for part in parts} == {len(whole)}
    for batches_of_ranks, batch in zip(zip(*parts, strict=True), whole, strict=True):
        assert sorted(torch.cat([one.x for one in batches_of_ranks]).tolist()) == batch.x.tolist()
        assert all(0 < len(one.x) <= 8 // ranks for one in batches_of_ranks)
    assert torch.cat([batch.x for batch in whole]).tolist() == list(range(number))


def validation(number: int, rank: int, ranks: int) -> list[Batch]:
    samples = Batch(*(torch.arange(number),) * 3)
    take = partial(cut, samples)
    split = SplitBatches(number, take, batch_size=8 // ranks, rank=rank, ranks=ranks)
    assert len(split) == len(list(split))
    return list(split)


def test_seeds_steps_and_ranks_draw_variants_of_their_own() -> None:
    taken = [
        *batches(5, drawn=True),
        *batches(5, seed=1, drawn=True),
        *batches(5, rank=1, ranks=2, seed=2, drawn=True),
        *batches(5, rank=0, ranks=2, seed=2, drawn=True),
    ]
    drawn = torch.cat([batch.x for batch in taken])
    assert len(drawn.unique()) == len(drawn)


def test_seeds_give_orders_of_their_own() -> None:
    assert numbers(batches(5)) == numbers(batches(5))
    assert numbers(batches(5)) != numbers(batches(5, seed=1))


def test_streams_of_neighbouring_seeds_do_not_meet() -> None:
    first = {int(torch.randint(2**60, (), generator=stream(s, "a", i))) for s in range(5) for i in range(50)}
    assert len(first) == 250


def test_stack_keeps_the_order_of_its_table(modality: Modality, ingested: Path) -> None:
    table = store.read_table(ingested / "manifest.parquet")
    classes = read_classes(ingested)
    forward = stack(modality, ingested, table, classes)
    backward = stack(modality, ingested, table[::-1], classes)
    assert torch.equal(forward.x, backward.x.flip(0))
    assert torch.equal(forward.label, backward.label.flip(0))
