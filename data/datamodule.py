"""Decided samples → batches, as a LightningDataModule."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict

import lightning
import numpy as np
import pandas as pd
from torch.utils.data import DataLoader, IterableDataset

from winnow.data import reading, store
from winnow.data.batches import Batch, SplitBatches, TrainBatches, Variants, cut, stack
from winnow.data.modality import Modality
from winnow.data.reading import Named
from winnow.data.streaming import Stored, Streaming, TrainStream


class _Share(TypedDict):
    batch_size: int
    rank: int
    ranks: int


class Samples(lightning.LightningDataModule):
    """The samples of one round, split and batched.

    Args:
        modality: what the samples are.
        ingest: folder that `ingest` wrote.
        labels: folder of a round's decisions, or of `ingest` for the data as delivered.
        batch_size: samples in a batch, on each rank.
        streaming: decode while training, with so many workers; None: once, into memory.
        variants: what is drawn of a sample to train on.
        labelled: take only samples that have a label.
        seed: of the order and of the variants.
        targets: learn the targets that `ingest` kept in place of labels: as `transcripts`, which tell all of
            a sample, as `numbers`, or as `sets` of labels; None: labels.

    Attributes:
        classes: what the label of a batch is the number of: the labels, or all different targets.
    """

    def __init__(
        self,
        modality: Modality,
        ingest: Path,
        labels: Path,
        batch_size: int,
        streaming: Streaming | None,
        variants: Variants,
        labelled: bool,
        seed: int,
        targets: Literal["transcripts", "numbers", "sets"] | None = None,
    ) -> None:
        super().__init__()
        self.modality = modality
        self._targets = {} if targets is None else store.read_targets(ingest)
        self._targets_are = targets
        told = set(self._targets.values())
        self.classes = sorted(told) if targets else store.read_classes(ingest)
        self._ingest, self._labels, self._labelled = ingest, labels, labelled
        self._batch_size, self._streaming, self._seed = batch_size, streaming, seed
        self._variants = variants
        self._decoded: dict[str, Batch] = {}
        self._streamed: dict[str, Stored] = {}

    @property
    def update_size(self) -> int:
        """Samples in an update, over all processes and accumulated batches."""
        trainer = self.trainer
        batches = 1 if trainer is None else trainer.world_size * trainer.accumulate_grad_batches
        return batches * self._batch_size

    def read(self, split: str) -> Batch:
        """Decode a whole split, once.

        Raises:
            ValueError: if the split holds no such sample.
        """
        if split not in self._decoded:
            self._decoded[split] = stack(self.modality, self._ingest, self._table(split), self.classes)
        return self._decoded[split]

    def drawn(self, split: str, number: int) -> Batch:
        """Decode some labelled samples of a split, at most so many; the seed alone says which.

        Raises:
            ValueError: if none has a label.
        """
        table = self._table(split)
        table = table[table["label"].notna()]
        if table.empty:
            raise ValueError(f"{self._labels}: no labelled sample in the {split} split")
        some = table.sample(min(number, len(table)), random_state=self._seed)
        return stack(self.modality, self._ingest, some, self.classes)

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        """Give the samples of a split in order, so many at a time."""
        number, take = self._source(split)
        return take([range(start, min(start + size, number)) for start in range(0, number, size)])

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        return self.train_batches(
            0 if trainer is None else trainer.global_step * trainer.accumulate_grad_batches
        )

    def train_batches(self, taken: int) -> DataLoader[Batch]:
        """Give the batches to train on that follow the first so many."""
        batches: TrainBatches | TrainStream
        if self._streaming:
            streaming, stored = self._streaming, self._stored("train")
            batches = TrainStream(
                stored,
                streaming=streaming,
                variants=self._variants,
                seed=self._seed,
                start=taken,
                **self._share(),
            )
        else:
            samples = self.read("train")
            batches = TrainBatches(
                samples,
                self.modality,
                variants=self._variants,
                seed=self._seed,
                start=taken,
                **self._share(),
            )
        return DataLoader(batches, batch_size=None, num_workers=self._workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._whole("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._whole("test")

    def predict_dataloader(self) -> DataLoader[Named]:
        """Give all that `ingest` kept, whatever its split and its label, with ids."""
        return DataLoader(_Everything(self.modality, self._ingest, self._batch_size), batch_size=None)

    def _whole(self, split: str) -> DataLoader[Batch]:
        # Whole batches, as in training; the method knows no other form.
        batches = SplitBatches(*self._source(split), **self._share())
        return DataLoader(batches, batch_size=None, num_workers=self._workers)

    @property
    def _workers(self) -> int:
        return self._streaming.workers if self._streaming else 0

    def _source(self, split: str) -> tuple[int, Callable[[list[range]], Iterator[Batch]]]:
        if self._streaming:
            stored = self._stored(split)
            return len(stored), stored.take
        samples = self.read(split)
        return len(samples.x), partial(cut, samples)

    def _stored(self, split: str) -> Stored:
        if split not in self._streamed:
            self._streamed[split] = Stored(self.modality, self._ingest, self._table(split), self.classes)
        return self._streamed[split]

    def _table(self, split: str) -> pd.DataFrame:
        table = store.read_labels(self._labels, self._ingest)
        table = table[table["split"] == split]
        if self._targets_are:
            told = [self._targets.get(id_) for id_ in table["id"]]
            table = table.assign(label=pd.Series(told, table.index, dtype=object))
            self._check(set(table["id"][table["label"].notna()]))
        if self._labelled:
            table = table[table["label"].notna()]
        if table.empty:
            raise ValueError(f"{self._labels}: no usable sample in the {split} split")
        return table

    def spread(self) -> tuple[float, float]:
        """Give mean and standard deviation of the numbers to learn; 0 and 1 if there are none."""
        if self._targets_are != "numbers":
            return 0.0, 1.0
        numbers = self._table("train")["label"].dropna().astype(float)
        return float(numbers.mean()), float(numbers.std(ddof=0)) or 1.0

    def _check(self, ids: set[str]) -> None:
        """Look for targets that cannot be learned.

        Raises:
            ValueError: if a number is none, or a transcript is one of a sample that is cut.
        """
        manifest = store.read_table(self._ingest / "manifest.parquet")
        manifest = manifest[manifest["id"].isin(ids)]
        wrong, what = np.zeros(len(manifest), bool), ""
        if self._targets_are == "numbers":
            told = [self._targets[id_] for id_ in manifest["id"]]
            wrong = ~np.isfinite(pd.to_numeric(pd.Series(told), errors="coerce").to_numpy(float))
            what = "have a target that is no number"
        elif self._targets_are == "transcripts":
            measured = manifest.drop(columns=["id", "label", "split", "group", "source"]).to_dict("records")
            wrong = np.array([self.modality.cuts(row) for row in measured], bool)
            what = (
                "are longer than what is read of them, and their transcripts tell more: let the modality "
                "read more (speech: seconds), or leave them out"
            )
        if wrong.any():
            first = manifest[wrong].iloc[0]
            raise ValueError(
                f"{wrong.sum()} of {len(wrong)} samples {what}; the first is {first['source']} with "
                f"{self._targets[first['id']]!r}"
            )

    def _share(self) -> _Share:
        trainer = self.trainer
        rank, ranks = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        return {"batch_size": self._batch_size, "rank": rank, "ranks": ranks}


class _Everything(IterableDataset[Named]):
    def __init__(self, modality: Modality, ingest: Path, size: int) -> None:
        self._modality, self._ingest, self._size = modality, ingest, size

    def __iter__(self) -> Iterator[Named]:
        return reading.everything(self._modality, self._ingest, self._size)
