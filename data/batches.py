"""Samples → batches: decoded once, in an order and with variants that nothing but the seed decides.

All randomness is a function of (seed, epoch) for the order and of (seed, place of the sample in the run) for
its variant; nothing depends on what was drawn before, nor on which process drew it. A run that is resumed at
a step therefore sees what it would have seen, and so do two processes that share the batches of one.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from winnow.data import store
from winnow.data.modality import Modality

UNLABELLED = -1


class Batch(NamedTuple):
    """Samples side by side.

    Attributes:
        x: what `Modality.load` gives, stacked.
        label: index into the classes, `UNLABELLED` where there is none.
        place: of each sample, in the run or in its split: what is drawn for it depends on that and the seed.
            Variants of one sample have one place.
    """

    x: Tensor
    label: Int[Tensor, " batch"]
    place: Int[Tensor, " batch"]


def seed_of(seed: int, purpose: str, place: int) -> int:
    """Give the seed of what is drawn for one purpose at one place: unlike that of any other."""
    # A digest, as torch's generator on the CPU reads 32 bits: sums of far-apart terms would lose the upper.
    digest = hashlib.blake2b(f"{seed} {purpose} {place}".encode(), digest_size=4)
    return int.from_bytes(digest.digest(), "big")


def stream(seed: int, purpose: str, place: int) -> torch.Generator:
    """Make the generator of what is drawn for one purpose at one place."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, place))


def stack(modality: Modality, ingest: Path, table: pd.DataFrame, classes: list[str]) -> Batch:
    """Decode the samples of a table, once, into one batch in the table's order."""
    decoded = {id_: modality.load(raw) for id_, raw in store.payloads(ingest, table["id"])}
    x = torch.stack([decoded[id_] for id_ in table["id"]])
    return Batch(x, label_indices(table, classes), torch.arange(len(x)))


def label_indices(table: pd.DataFrame, classes: list[str]) -> Int[Tensor, " sample"]:
    """Give the labels of a table as indices into the classes, `UNLABELLED` where there is none."""
    index = {label: i for i, label in enumerate(classes)}
    return torch.tensor([UNLABELLED if label is None else index[label] for label in table["label"]])


@dataclass(frozen=True, kw_only=True)
class Variants:
    """What is drawn of each sample that a batch holds; all of it lies side by side.

    Attributes:
        number: variants of a sample.
        strength: of `Modality.transform`.
    """

    number: int
    strength: float

    def of(self, modality: Modality, x: Tensor, seed: int, place: int) -> list[Tensor]:
        """Draw the variants of the sample that has a place in the run."""
        streams = (stream(seed, "variant", place * self.number + i) for i in range(self.number))
        return [modality.transform(x, generator, self.strength) for generator in streams]


class TrainBatches(IterableDataset[Batch]):
    """The batches of the steps from `start` on: epoch after epoch, each in its own shuffled order."""

    def __init__(
        self,
        samples: Batch,
        modality: Modality,
        *,
        variants: Variants,
        batch_size: int,
        seed: int,
        start: int,
        rank: int,
        ranks: int,
    ) -> None:
        self._samples, self._modality, self._variants = samples, modality, variants
        self._batch_size, self._seed, self._start = batch_size, seed, start
        self._rank, self._ranks = rank, ranks

    def __iter__(self) -> Iterator[Batch]:
        # A batch is drawn from the endless concatenation of shuffled epochs; ranks take turns in it.
        number, wide = len(self._samples.x), self._batch_size * self._ranks
        step, epoch, order = self._start, -1, torch.empty(0, dtype=torch.long)
        while True:
            rows, varied = [], []
            places = range(step * wide + self._rank, (step + 1) * wide, self._ranks)
            for place in places:
                if place // number != epoch:
                    epoch = place // number
                    order = torch.randperm(number, generator=stream(self._seed, "order", epoch))
                row = order[place % number]
                rows.append(row)
                varied += self._variants.of(self._modality, self._samples.x[row], self._seed, place)
            chosen = self._samples.label[torch.stack(rows)], torch.tensor(places)
            yield Batch(torch.stack(varied), *(t.repeat_interleave(self._variants.number) for t in chosen))
            step += 1


class SplitBatches(IterableDataset[Batch]):
    """A split, once and in order: on each rank as many batches, of which no two hold the same sample.

    Equally many, since DDP may meet in each; and cut alike for any number of ranks that makes the same global
    batch, so that a limit on batches is a limit to the same samples.

    Args:
        number: of samples.
        take: gives a batch for each range of rows.
        batch_size: samples in a batch, at most.
        rank: whose batches these are.
        ranks: number of ranks.

    Raises:
        ValueError: if there are more ranks than samples.
    """

    def __init__(
        self,
        number: int,
        take: Callable[[list[range]], Iterator[Batch]],
        *,
        batch_size: int,
        rank: int,
        ranks: int,
    ) -> None:
        if number < ranks:
            raise ValueError(f"{number} samples to score cannot be split over {ranks} processes")
        self._take = take
        batches = -(-number // (batch_size * ranks))
        ends = [number * i // batches for i in range(batches + 1)]
        self._parts = [range(start + rank, end, ranks) for start, end in pairwise(ends)]

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        yield from self._take(self._parts if info is None else self._parts[info.id :: info.num_workers])


def cut(samples: Batch, parts: list[range]) -> Iterator[Batch]:
    """Cut batches from samples in memory."""
    for part in parts:
        yield Batch(*(tensor[part.start : part.stop : part.step] for tensor in samples))
