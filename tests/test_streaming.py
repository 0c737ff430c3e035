import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from torch.utils.data import DataLoader

from winnow.data import shards, store
from winnow.data.batches import UNLABELLED, Batch, Variants, stack
from winnow.data.modality import Modality
from winnow.data.store import read_classes
from winnow.data.streaming import Stored, Streaming, TrainStream

NUMBER, SIZE = 53, 4


ONE = Variants(number=1, strength=1.0)


@pytest.fixture(scope="module")
def scattered(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples again, in many small shards."""
    folder = tmp_path_factory.mktemp("scattered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ROWS_PER_SHARD", 5)
        with store.sample_writer(folder) as writer:
            for id_, payload in store.payloads(ingested):
                writer.add(id_, payload)
    assert len(store.payload_groups(folder)) > 10
    return folder


@pytest.fixture(scope="module")
def stored(modality: Modality, ingested: Path, scattered: Path) -> Stored:
    """Every sample of the store but some, numbered as in their table."""
    table = store.read_table(ingested / "manifest.parquet")
    return Stored(modality, scattered, table[-NUMBER:], read_classes(ingested))


def loader(
    stored: Stored, workers: int = 0, seed: int = 0, start: int = 0, rank: int = 0, ranks: int = 1
) -> DataLoader[Batch]:
    streaming = Streaming(workers=workers, buffer=6)
    batches = TrainStream(
        stored,
        streaming=streaming,
        variants=ONE,
        batch_size=SIZE,
        seed=seed,
        start=start,
        rank=rank,
        ranks=ranks,
    )
    return DataLoader(batches, batch_size=None, num_workers=workers)


def taken(stored: Stored, steps: int, **settings: int) -> list[Batch]:
    return list(itertools.islice(loader(stored, **settings), steps))


@pytest.mark.parametrize("readers", [1, 2, 3, 8])
def test_readers_share_an_epoch_without_loss_or_repetition(stored: Stored, readers: int) -> None:
    parts = [
        [stored.order(epoch, reader, readers, buffer=6, seed=0) for reader in range(readers)]
        for epoch in range(3)
    ]
    for epoch in parts:
        assert sorted(np.concatenate(epoch)) == list(range(NUMBER))
        assert max(map(len, epoch)) - min(map(len, epoch)) <= 1
    assert len({tuple(np.concatenate(epoch)) for epoch in parts}) == 3


def test_an_order_is_that_of_its_seed_and_not_of_the_store(stored: Stored) -> None:
    one, again, other = (stored.order(0, 0, 1, buffer=6, seed=seed) for seed in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()
    far = np.abs(np.diff(one))
    assert (far > 10).sum() > 5  # from shard to shard
    assert (far != 1).mean() > 0.5  # and not row after row within one


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_epoch_of_batches_holds_every_sample_once_over_ranks_and_workers(
    stored: Stored, scattered: Path, modality: Modality, workers: int, ranks: int
) -> None:
    """As far as whole batches go: a batch that begins in one epoch may end in the next."""
    readers = ranks * max(workers, 1)
    number = NUMBER // readers // SIZE * max(workers, 1)  # whole batches of the shortest reader's epoch
    drawn = [taken(stored, number, workers=workers, rank=rank, ranks=ranks) for rank in range(ranks)]
    places = torch.cat([batch.place for part in drawn for batch in part]).tolist()
    assert len(set(places)) == len(places) == number * ranks * SIZE
    orders = [stored.order(0, reader, readers, buffer=6, seed=0) for reader in range(readers)]
    labels = stored.take([range(NUMBER)])
    label = next(labels).label
    for rank, part in enumerate(drawn):
        for at, batch in enumerate(part):
            mine = orders[rank * max(workers, 1) + at % max(workers, 1)]
            rows = mine[at // max(workers, 1) * SIZE :][:SIZE]
            assert torch.equal(batch.label, label[torch.from_numpy(rows)])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_the_same_again_and_its_tail_where_it_is_resumed(stored: Stored, workers: int) -> None:
    whole = taken(stored, 40, workers=workers, ranks=2, rank=1)  # several epochs
    assert_same_batches(taken(stored, 40, workers=workers, ranks=2, rank=1), whole)
    for start in (1, 5, 17, 38):
        rest = taken(stored, 40 - start, workers=workers, ranks=2, rank=1, start=start)
        assert_same_batches(rest, whole[start:])


def assert_same_batches(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        runs.assert_same(list(a), list(b))


def test_samples_and_labels_are_those_of_the_table(
    modality: Modality, ingested: Path, scattered: Path
) -> None:
    table = store.read_table(ingested / "manifest.parquet").iloc[::3].copy()
    table.loc[table.index[:2], "label"] = None
    classes = read_classes(ingested)
    wanted = stack(modality, ingested, table, classes)
    parts = [range(1, 9, 2), range(9, 20), range(0, 1)]
    for batch, part in zip(Stored(modality, scattered, table, classes).take(parts), parts, strict=True):
        assert torch.equal(batch.x, wanted.x[part])
        assert torch.equal(batch.label, wanted.label[part])
        assert batch.place.tolist() == list(part)
    assert (wanted.label[:2] == UNLABELLED).all()


def test_a_row_group_is_read_once_in_an_epoch(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[shards.RowGroup] = []
    column = shards.RowGroup.column
    monkeypatch.setattr(
        shards.RowGroup, "column", lambda group, name: (read.append(group), column(group, name))[1]
    )
    order = stored.order(0, 0, 1, buffer=6, seed=0)
    assert [row for row, _ in stored.payloads(order)] == order.tolist()
    assert max(Counter(read).values()) == 1


def test_more_readers_than_samples_are_an_error(stored: Stored) -> None:
    with pytest.raises(ValueError, match="53 samples cannot be dealt out to 30 workers on 2 ranks"):
        loader(stored, workers=30, ranks=2)
