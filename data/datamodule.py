"""Decided samples → batches, as a LightningDataModule.

All randomness is a function of (seed, epoch) for the order and of (seed, step) for the variants; nothing
depends on what was drawn before. A run that is resumed at a step therefore sees what it would have seen.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightning
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

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


class Samples(lightning.LightningDataModule):
    """The samples of one round, split and batched.

    Args:
        modality: what the samples are.
        ingest: folder that `ingest` wrote.
        labels: folder of a round's decisions, or of `ingest` for the data as delivered.
        batch_size: samples in a batch, on each rank.
        labelled: take only samples that have a label.
        seed: of the order and of the variants.
    """

    def __init__(
        self,
        modality: Modality,
        ingest: Path,
        labels: Path,
        batch_size: int,
        labelled: bool,
        seed: int,
    ) -> None:
        super().__init__()
        self.modality = modality
        self.classes = store.read_classes(ingest)
        self._ingest, self._labels, self._labelled = ingest, labels, labelled
        self._batch_size, self._seed = batch_size, seed
        self._decoded: dict[str, Batch] = {}

    def read(self, split: str) -> Batch:
        """Decode a whole split, once.

        Raises:
            ValueError: if the split holds no such sample.
        """
        if split not in self._decoded:
            table = store.read_labels(self._labels, self._ingest)
            table = table[table["split"] == split]
            if self._labelled:
                table = table[table["label"].notna()]
            if table.empty:
                raise ValueError(f"{self._labels}: no usable sample in the {split} split")
            self._decoded[split] = stack(self.modality, self._ingest, table, self.classes)
        return self._decoded[split]

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        taken = 0 if trainer is None else trainer.global_step * trainer.accumulate_grad_batches
        batches = TrainBatches(
            self.read("train"),
            self.modality,
            batch_size=self._batch_size,
            seed=self._seed,
            start=taken,
            rank=0 if trainer is None else trainer.global_rank,
            ranks=1 if trainer is None else trainer.world_size,
        )
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        # Whole batches, as in training; the method knows no other form.
        samples, size = self.read("validation"), self._batch_size
        batches = [
            Batch(samples.x[i : i + size], samples.label[i : i + size])
            for i in range(0, len(samples.x), size)
        ]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
