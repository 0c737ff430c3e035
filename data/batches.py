"""Samples → batches: decoded once, in an order and with variants that nothing but the seed decides.

All randomness is a function of (seed, epoch) for the order and of (seed, step) for the variants; nothing
depends on what was drawn before. A run that is resumed at a step therefore sees what it would have seen.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import IterableDataset

from winnow.data import store
from winnow.data.modality import Modality

UNLABELLED = -1
_STREAMS = 2**20  # how far apart two seeds' streams start; no run has more steps


class Batch(NamedTuple):
    """Samples side by side.

    Attributes:
        x: what `Modality.load` gives, stacked.
        label: index into the classes, `UNLABELLED` where there is none.
    """

    x: Tensor
    label: Int[Tensor, " batch"]


def stream(seed: int, step: int) -> torch.Generator:
    """Make the generator of one step: independent of every other step's."""
    return torch.Generator().manual_seed(seed * _STREAMS + step)


def stack(modality: Modality, ingest: Path, table: pd.DataFrame, classes: list[str]) -> Batch:
    """Decode the samples of a table, once, into one batch in the table's order."""
    index = {label: i for i, label in enumerate(classes)}
    decoded = {id_: modality.load(raw) for id_, raw in store.payloads(ingest, table["id"])}
    labels = [UNLABELLED if label is None else index[label] for label in table["label"]]
    return Batch(torch.stack([decoded[id_] for id_ in table["id"]]), torch.tensor(labels))


class TrainBatches(IterableDataset[Batch]):
    """The batches of the steps from `start` on: epoch after epoch, each in its own shuffled order."""

    def __init__(
        self,
        samples: Batch,
        modality: Modality,
        *,
        batch_size: int,
        seed: int,
        start: int,
        rank: int,
        ranks: int,
    ) -> None:
        self._samples, self._modality = samples, modality
        self._batch_size, self._seed, self._start = batch_size, seed, start
        self._rank, self._ranks = rank, ranks

    def __iter__(self) -> Iterator[Batch]:
        # A batch is drawn from the endless concatenation of shuffled epochs; ranks take turns in it.
        number, wide = len(self._samples.x), self._batch_size * self._ranks
        step, epoch, order = self._start, -1, torch.empty(0, dtype=torch.long)
        while True:
            rows = []
            for position in range(step * wide + self._rank, (step + 1) * wide, self._ranks):
                if position // number != epoch:
                    epoch = position // number
                    order = torch.randperm(number, generator=stream(self._seed, -1 - epoch))
                rows.append(order[position % number])
            chosen = torch.stack(rows)
            generator = stream(self._seed, step * self._ranks + self._rank)
            varied = [self._modality.transform(self._samples.x[i], generator) for i in chosen]
            yield Batch(torch.stack(varied), self._samples.label[chosen])
            step += 1
