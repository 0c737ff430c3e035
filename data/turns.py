"""Samples of several modalities → batches of one modality at a time, which take turns."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import lightning
from torch.utils.data import DataLoader, IterableDataset

from winnow.data.batches import Batch, Variants
from winnow.data.datamodule import Samples
from winnow.data.modality import Modality
from winnow.data.streaming import Streaming


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the samples of a modality are.

    Attributes:
        modality: what they are.
        ingest: folder that `ingest` wrote.
        labels: folder of a round's decisions, or of `ingest` for the data as delivered.
        variants: what is drawn of a sample to train on.
    """

    modality: Modality
    ingest: Path
    labels: Path
    variants: Variants


class Turn(NamedTuple):
    """A batch, and whose it is.

    Attributes:
        of: the modality's name.
        batch: as this modality would see it alone.
    """

    of: str
    batch: Batch


def rotation(turns: Mapping[str, int]) -> list[str]:
    """Give the order of one round, in which each modality has its number of turns, evenly spread.

    It does not depend on the order in which they are named: a saved config may be sorted.

    Raises:
        ValueError: if there is no modality, or one without a turn.
    """
    if not turns or min(turns.values()) < 1:
        raise ValueError(f"turns {dict(turns)}: each modality needs 1 at least, and there must be one")
    slots = [
        ((turn + 0.5) / number, place, name)
        for place, (name, number) in enumerate(sorted(turns.items()))
        for turn in range(number)
    ]
    return [name for _, _, name in sorted(slots)]


class SampleSets(lightning.LightningDataModule):
    """The samples of several modalities, in batches of one of them.

    An update of the weights is one modality's, however many batches it takes; whose it is depends on its
    number alone, and so do the batches. Each modality sees the batches that it would see alone.

    Args:
        origins: where the samples of each modality are.
        turns: of each modality in a round, updates.
        batch_size: samples in a batch, on each rank.
        streaming: decode while training, with so many workers for each modality; None: once, into memory.
        seed: of the order and of the variants.

    Raises:
        ValueError: if turns are not those of the modalities.
    """

    def __init__(
        self,
        origins: dict[str, Origin],
        turns: dict[str, int],
        batch_size: int,
        streaming: Streaming | None,
        seed: int,
    ) -> None:
        super().__init__()
        if origins.keys() != turns.keys():
            raise ValueError(f"turns are those of {sorted(turns)}, and there is {sorted(origins)}")
        self.modalities = {name: origin.modality for name, origin in origins.items()}
        self.rotation = rotation(turns)
        self.sets = {
            name: Samples(
                origin.modality,
                origin.ingest,
                origin.labels,
                batch_size=batch_size,
                streaming=streaming,
                variants=origin.variants,
                labelled=False,
                seed=seed,
            )
            for name, origin in sorted(origins.items())
        }

    def taken(self, name: str, updates: int) -> int:
        """Say how many of so many updates were a modality's."""
        rounds, rest = divmod(updates, len(self.rotation))
        return rounds * self.rotation.count(name) + self.rotation[:rest].count(name)

    @property
    def update_size(self) -> int:
        """Samples in an update, over all processes and accumulated batches."""
        return next(iter(self.sets.values())).update_size

    def setup(self, stage: str) -> None:
        for samples in self.sets.values():
            samples.trainer = self.trainer

    def train_dataloader(self) -> "Turns":
        trainer = self.trainer
        done, each = (0, 1) if trainer is None else (trainer.global_step, trainer.accumulate_grad_batches)
        return Turns(self, done, each)

    def val_dataloader(self) -> list[DataLoader[Turn]]:
        return [
            DataLoader(Named(name, samples.val_dataloader()), batch_size=None)
            for name, samples in self.sets.items()
        ]


class Turns:
    """The batches of all updates after the first `done`; the modality of an update gives `each` of them."""

    def __init__(self, sets: SampleSets, done: int, each: int) -> None:
        self._sets, self._done, self._each = sets, done, each

    def __iter__(self) -> Iterator[Turn]:
        batches = {
            name: iter(samples.train_batches(self._sets.taken(name, self._done) * self._each))
            for name, samples in self._sets.sets.items()
        }
        for update in count(self._done):
            name = self._sets.rotation[update % len(self._sets.rotation)]
            for _ in range(self._each):
                yield Turn(name, next(batches[name]))


class Named(IterableDataset[Turn]):
    """Batches of one modality, with its name."""

    def __init__(self, name: str, batches: DataLoader[Batch]) -> None:
        self._name, self._batches = name, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Turn]:
        for batch in self._batches:
            yield Turn(self._name, batch)
