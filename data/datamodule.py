"""Decided samples → batches, as a LightningDataModule."""

from collections.abc import Iterator
from pathlib import Path

import lightning
from torch.utils.data import DataLoader, IterableDataset

from winnow.data import reading, store
from winnow.data.batches import Batch, TrainBatches, stack
from winnow.data.modality import Modality
from winnow.data.reading import Named


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
        return self._whole("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._whole("test")

    def predict_dataloader(self) -> DataLoader[Named]:
        """Give all that `ingest` kept, whatever its split and its label, with ids."""
        return DataLoader(_Everything(self.modality, self._ingest, self._batch_size), batch_size=None)

    def _whole(self, split: str) -> DataLoader[Batch]:
        # Whole batches, as in training; the method knows no other form.
        samples, size = self.read(split), self._batch_size
        batches = [
            Batch(samples.x[i : i + size], samples.label[i : i + size])
            for i in range(0, len(samples.x), size)
        ]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class _Everything(IterableDataset[Named]):
    def __init__(self, modality: Modality, ingest: Path, size: int) -> None:
        self._modality, self._ingest, self._size = modality, ingest, size

    def __iter__(self) -> Iterator[Named]:
        return reading.everything(self._modality, self._ingest, self._size)
