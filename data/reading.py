"""Every sample of a folder once, in the order of its manifest; memory holds one batch."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from winnow.data import store
from winnow.data.modality import Modality


class Named(NamedTuple):
    """Samples side by side, unvaried.

    Attributes:
        ids: of the samples.
        x: what `Modality.load` gives, stacked.
    """

    ids: list[str]
    x: Tensor


def everything(modality: Modality, ingest: Path, size: int) -> Iterator[Named]:
    """Decode what `ingest` kept, `size` samples at a time."""
    ids: list[str] = []
    loaded: list[Tensor] = []
    for id_, payload in store.payloads(ingest):
        ids.append(id_)
        loaded.append(modality.load(payload))
        if len(ids) == size:
            yield Named(ids, torch.stack(loaded))
            ids, loaded = [], []
    if ids:
        yield Named(ids, torch.stack(loaded))
