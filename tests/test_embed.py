from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from runs import assert_same_files

from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl import embed
from winnow.ssl import model as models
from winnow.ssl.trunk import Encoder


@pytest.fixture(scope="module")
def encoder(modality: Modality, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(7)
    models.save(Encoder(modality, runs.SHAPE), folder)
    return folder


def run(modality: Modality, ingest: Path, encoder: Path, out: Path, batch_size: int = 20) -> Path:
    out.mkdir()
    embed.main(modality, ingest, encoder, out, batch_size=batch_size, seed=0, threads=1)
    return out


def test_embeds_every_sample_by_the_encoder_and_by_its_untrained_twin(
    modality: Modality, ingested: Path, encoder: Path, tmp_path: Path
) -> None:
    out = run(modality, ingested, encoder, tmp_path / "embed")
    manifest = store.read_table(ingested / "manifest.parquet")
    payloads = dict(store.payloads(ingested))
    x = torch.stack([modality.load(payloads[id_]) for id_ in manifest["id"]])
    torch.manual_seed(0)
    twin = Encoder(modality, runs.SHAPE).eval()
    with torch.no_grad():
        for name, network in (("embeddings", models.load_encoder(encoder)), ("random", twin)):
            vectors = store.read_vectors(out / name, manifest["id"])
            assert vectors.shape == (72, runs.SHAPE.layers * runs.SHAPE.dim)
            np.testing.assert_allclose(vectors, network.embed(x), atol=1e-5)


def test_two_runs_leave_the_same_bytes(
    modality: Modality, ingested: Path, encoder: Path, tmp_path: Path
) -> None:
    one = run(modality, ingested, encoder, tmp_path / "one")
    torch.manual_seed(99)
    assert_same_files(one, run(modality, ingested, encoder, tmp_path / "two"))


@pytest.mark.parametrize("batch_size", [1, 72, 1000])
def test_the_size_of_a_batch_does_not_matter(
    modality: Modality, ingested: Path, encoder: Path, tmp_path: Path, batch_size: int
) -> None:
    one = run(modality, ingested, encoder, tmp_path / "one")
    two = run(modality, ingested, encoder, tmp_path / "two", batch_size)
    for name in ("embeddings", "random"):
        vectors = [store.read_vectors(out / name) for out in (one, two)]
        np.testing.assert_allclose(*vectors, atol=1e-5)


def test_leaves_the_modes_and_weights_of_a_classifier_alone_and_embeds_its_trunk(
    modality: Modality, ingested: Path, encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "classifier").mkdir()
    trunk = models.load_encoder(encoder)
    models.save(models.Classifier(trunk, ["a", "b"]), tmp_path / "classifier")
    one = run(modality, ingested, encoder, tmp_path / "one")
    two = run(modality, ingested, tmp_path / "classifier", tmp_path / "two")
    assert_same_files(one, two)
