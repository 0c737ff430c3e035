from pathlib import Path

import pytest
import torch

from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.reading import everything


@pytest.mark.parametrize("size", [5, 72, 100])
def test_everything_is_every_sample_once_in_the_order_of_the_manifest(
    modality: Modality, ingested: Path, size: int
) -> None:
    manifest = store.read_table(ingested / "manifest.parquet")
    payloads = dict(store.payloads(ingested))
    batches = list(everything(modality, ingested, size))
    assert [id_ for batch in batches for id_ in batch.ids] == list(manifest["id"])
    wanted = torch.stack([modality.load(payloads[id_]) for id_ in manifest["id"]])
    assert torch.equal(torch.cat([batch.x for batch in batches]), wanted)
    assert {len(batch.ids) for batch in batches[:-1]} <= {size}
    assert len(batches) == -(-len(manifest) // size)
