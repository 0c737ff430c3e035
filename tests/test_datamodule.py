import itertools
from pathlib import Path

import pytest
import runs
import torch
from conftest import Kind
from torch import Generator, Tensor

from winnow.data import store
from winnow.data.datamodule import (
    UNLABELLED,
    Batch,
    Samples,
    TrainBatches,
    stack,
    stream,
)
from winnow.data.modality import Modality, build
from winnow.data.store import read_classes
from winnow.data.vision import Vision

NUMBER = 10


class Plain(Vision):
    """Vision whose training variants are the samples themselves, or only what the generator drew."""

    def __init__(self, drawn: bool = False) -> None:
        super().__init__(size=8, patch=4, channels=1)
        self.drawn = drawn

    def transform(self, x: Tensor, generator: Generator) -> Tensor:
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
) -> list[Batch]:
    """Take batches of ten numbered samples."""
    samples = Batch(torch.arange(NUMBER), torch.arange(NUMBER) + 100)
    stream_of = TrainBatches(
        samples,
        Plain(drawn),
        batch_size=batch_size,
        seed=seed,
        start=start,
        rank=rank,
        ranks=ranks,
    )
    return list(itertools.islice(stream_of, steps))


def numbers(taken: list[Batch]) -> list[int]:
    return torch.cat([batch.x for batch in taken]).tolist()


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
    first = {int(torch.randint(2**60, (), generator=stream(s, i))) for s in range(5) for i in range(50)}
    assert len(first) == 250


# --- samples of a dataset -----------------------------------------------------------------------


def samples(modality: Modality, ingest: Path, labels: Path, labelled: bool = True) -> Samples:
    return Samples(modality, ingest, labels, batch_size=8, labelled=labelled, seed=0)


def test_a_split_is_its_samples_in_the_order_of_the_manifest(modality: Modality, ingested: Path) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    classes = read_classes(ingested)
    payloads = dict(store.payloads(ingested))
    data = samples(modality, ingested, ingested)
    assert data.classes == classes == sorted(set(manifest["label"]))
    for split in store.SPLITS:
        part, read = manifest[manifest["split"] == split], data.read(split)
        wanted = torch.stack([modality.load(payloads[id_]) for id_ in part["id"]])
        assert torch.equal(read.x, wanted)
        assert [classes[i] for i in read.label.tolist()] == list(part["label"])


def test_drops_and_new_labels_are_followed(modality: Modality, ingested: Path, tmp_path: Path) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    train = manifest[manifest["split"] == "train"]
    dropped, other, unlabelled = train["id"][:3]
    new = next(c for c in read_classes(ingested) if c != train["label"].iloc[1])
    labels = runs.decide(ingested, tmp_path / "labels", dropped, **{other: new, unlabelled: None})

    everything = samples(modality, ingested, labels, labelled=False).read("train")
    assert len(everything.x) == len(train) - 1
    assert everything.label[0] == read_classes(ingested).index(new)
    assert everything.label[1] == UNLABELLED
    labelled = samples(modality, ingested, labels).read("train")
    assert len(labelled.x) == len(train) - 2
    assert UNLABELLED not in labelled.label


def test_training_batches_hold_variants_of_training_samples_alone(modality: Modality, ingested: Path) -> None:
    data = samples(modality, ingested, ingested)
    train = data.read("train")
    number = len(train.x)
    taken = list(itertools.islice(data.train_dataloader(), -(-number // 8)))
    assert [len(batch.x) for batch in taken] == [8] * len(taken)
    # An epoch of batches has the labels of the train split, and each sample varied by its generator.
    labels = torch.cat([batch.label for batch in taken])[:number]
    assert torch.equal(labels.sort().values, train.label.sort().values)
    order = torch.randperm(number, generator=stream(0, -1))
    generator = stream(0, 0)
    wanted = [modality.transform(train.x[i], generator) for i in order[:8]]
    assert torch.equal(taken[0].x, torch.stack(wanted))


def test_validation_is_the_whole_split_unchanged_and_in_order(modality: Modality, ingested: Path) -> None:
    data = samples(modality, ingested, ingested)
    taken = list(data.val_dataloader())
    assert torch.equal(torch.cat([batch.x for batch in taken]), data.read("validation").x)
    assert torch.equal(torch.cat([batch.label for batch in taken]), data.read("validation").label)


def test_a_sample_is_decoded_once_however_often_it_is_read(ingested: Path, kind: Kind) -> None:
    loads: list[bytes] = []
    made = build(kind.section)

    class Counting(type(made)):  # type: ignore[misc]
        def load(self, payload: bytes) -> Tensor:
            loads.append(payload)
            return super().load(payload)

    data = samples(Counting(**kind.section["init_args"]), ingested, ingested)
    for _ in range(2):
        list(itertools.islice(data.train_dataloader(), 20))
        list(data.val_dataloader())
        data.read("train")
    manifest = store.read_table(ingested / "manifest.parquet")
    used = manifest[manifest["split"] != "test"]["id"]
    assert sorted(loads) == sorted(raw for _, raw in store.payloads(ingested, used))


def test_stack_keeps_the_order_of_its_table(modality: Modality, ingested: Path) -> None:
    table = store.read_table(ingested / "manifest.parquet")
    classes = read_classes(ingested)
    forward = stack(modality, ingested, table, classes)
    backward = stack(modality, ingested, table[::-1], classes)
    assert torch.equal(forward.x, backward.x.flip(0))
    assert torch.equal(forward.label, backward.label.flip(0))


def test_a_split_without_a_usable_sample_is_an_error(
    modality: Modality, ingested: Path, tmp_path: Path
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    part = manifest[manifest["split"] == "validation"]["id"]
    labels = runs.decide(ingested, tmp_path / "labels", **dict.fromkeys(part))
    assert len(samples(modality, ingested, labels, labelled=False).read("validation").x) == len(part)
    with pytest.raises(ValueError, match="no usable sample in the validation split"):
        samples(modality, ingested, labels).read("validation")
