"""Samples → batches, decoded while training: for datasets that do not fit in memory.

What is read together is a row group of a shard. Each epoch shuffles the row groups, deals them out to the
readers (every DataLoader worker of every rank), and each reader shuffles its part through a buffer. All of
that is decided on row numbers, by the seed, before anything is read: a run that is resumed reads on at the
row where it stopped. The order depends on the number of readers, and they must be as many as before.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch.utils.data import IterableDataset, get_worker_info

from winnow.data import store
from winnow.data.batches import Batch, Variants, label_indices, stream
from winnow.data.modality import Modality


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How samples are read and decoded while training.

    Attributes:
        workers: processes of each rank that do it; 0: the training process itself.
        buffer: samples, not yet decoded, from which a worker draws the next one.
    """

    workers: int
    buffer: int


class Stored:
    """The samples of a table, as they lie in the store; rows are numbered as in the table.

    Args:
        modality: what the samples are.
        ingest: folder that `ingest` wrote.
        table: `id` and `label` of the samples.
        classes: that label indices refer to.
    """

    def __init__(self, modality: Modality, ingest: Path, table: pd.DataFrame, classes: list[str]) -> None:
        self._modality, self._groups = modality, store.payload_groups(ingest)
        self._label = label_indices(table, classes)
        rows = pd.Series(np.arange(len(table)), index=table["id"])
        # Of each group, for each of its samples, the row of the table, and -1 for what is not in it.
        self._rows = [
            rows.reindex(group.column("id").to_pylist(), fill_value=-1).to_numpy() for group in self._groups
        ]
        self._group_of = np.empty(len(table), np.int64)
        for number, held in enumerate(self._rows):
            self._group_of[held[held >= 0]] = number

    def __len__(self) -> int:
        return len(self._label)

    def order(
        self, epoch: int, reader: int, readers: int, *, buffer: int, seed: int
    ) -> Int[np.ndarray, " row"]:
        """Give the rows of one reader in one epoch: no other reader's, and of all readers all rows."""
        groups = torch.randperm(len(self._rows), generator=stream(seed, "groups", epoch)).tolist()
        dealt = np.concatenate([self._rows[number] for number in groups])
        dealt = dealt[dealt >= 0]
        part = dealt[len(dealt) * reader // readers : len(dealt) * (reader + 1) // readers]
        drawn = stream(seed, f"buffer {reader}", epoch)
        held, out = part[:buffer].copy(), np.empty_like(part)
        places = torch.randint(len(held), (len(part) - len(held),), generator=drawn).tolist()
        for at, place in enumerate(places):
            out[at], held[place] = held[place], part[len(held) + at]
        out[len(places) :] = held[torch.randperm(len(held), generator=drawn).numpy()]
        return out

    def payloads(self, rows: Sequence[int] | Int[np.ndarray, " row"]) -> Iterator[tuple[int, bytes]]:
        """Read rows in the given order; memory holds what was read with them and is still to come."""
        wanted = np.zeros(len(self), bool)
        wanted[rows] = True
        held: dict[int, bytes] = {}
        for row in map(int, rows):
            if row not in held:
                number = self._group_of[row]
                column = self._groups[number].column("payload")
                for other, payload in zip(self._rows[number].tolist(), column, strict=True):
                    if other >= 0 and wanted[other]:
                        held[other] = payload.as_py()
            wanted[row] = False
            yield row, held.pop(row)

    def take(self, parts: Iterable[range]) -> Iterator[Batch]:
        """Decode some rows after others, each range of them as a batch."""
        parts = list(parts)
        read = self.payloads([row for part in parts for row in part])
        for part in parts:
            x = [self._modality.load(payload) for _, payload in islice(read, len(part))]
            rows = torch.tensor(part)
            yield Batch(torch.stack(x), self._label[rows], rows)

    def varied(
        self, part: Iterable[tuple[int, bytes]], places: range, variants: Variants, seed: int
    ) -> Batch:
        """Decode payloads, and draw the variants of each that belong to its place in the run."""
        rows, x = [], []
        for (row, payload), place in zip(part, places, strict=True):
            rows.append(row)
            x += variants.of(self._modality, self._modality.load(payload), seed, place)
        chosen = self._label[rows], torch.tensor(places)
        return Batch(torch.stack(x), *(t.repeat_interleave(variants.number) for t in chosen))


class TrainStream(IterableDataset[Batch]):
    """The batches of one rank from `start` on, epoch after epoch; its workers make them in turn.

    Raises:
        ValueError: if there are more readers than samples.
    """

    def __init__(
        self,
        samples: Stored,
        *,
        streaming: Streaming,
        variants: Variants,
        batch_size: int,
        seed: int,
        start: int,
        rank: int,
        ranks: int,
    ) -> None:
        if len(samples) < ranks * max(streaming.workers, 1):
            raise ValueError(
                f"{len(samples)} samples cannot be dealt out to {streaming.workers} workers on {ranks} ranks"
            )
        self._samples, self._variants, self._buffer = samples, variants, streaming.buffer
        self._batch_size, self._seed, self._start = batch_size, seed, start
        self._rank, self._ranks = rank, ranks

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        # The loader asks its workers in turn, from the first one on: where a run is resumed, that is the
        # reader whose turn it was.
        batch, size = self._start + worker, self._batch_size
        reader = self._rank * workers + batch % workers
        rows = self._rows(reader, self._ranks * workers, batch // workers * size)
        while True:
            first = (batch * self._ranks + self._rank) * size
            places = range(first, first + size)
            yield self._samples.varied(islice(rows, size), places, self._variants, self._seed)
            batch += workers

    def _rows(self, reader: int, readers: int, taken: int) -> Iterator[tuple[int, bytes]]:
        """Read what a reader has yet to read after it took so many rows."""
        number = len(self._samples)
        epoch, offset = divmod(taken, number * (reader + 1) // readers - number * reader // readers)
        while True:
            order = self._samples.order(epoch, reader, readers, buffer=self._buffer, seed=self._seed)
            yield from self._samples.payloads(order[offset:])
            epoch, offset = epoch + 1, 0
