"""encoder + samples → one embedding per sample, of the encoder and of an untrained twin."""

from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import track

from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.stage import run
from winnow.ssl import model as models
from winnow.ssl.trunk import Encoder


def main(
    modality: Modality,
    ingest: Path,
    pretrain: Path,
    out: Path,
    *,
    batch_size: int,
    seed: int,
    threads: int,
) -> None:
    """Embed every sample once, for all who judge or probe by embeddings.

    Args:
        modality: what the samples are.
        ingest: samples.
        pretrain: the encoder.
        out: receives the vectors in `embeddings/`, and in `random/` those of the same network before
            any training: the control that every claim about the encoder has to beat.
        batch_size: samples at once.
        seed: of the untrained twin.
        threads: of torch; results depend on it in the last digits.
    """
    torch.set_num_threads(threads)
    encoder = models.load_encoder(pretrain)
    torch.manual_seed(seed)
    twin = Encoder(modality, encoder.shape).eval()
    with (
        store.vector_writer(out / "embeddings") as trained,
        store.vector_writer(out / "random") as untrained,
        torch.inference_mode(),
    ):
        for ids, x in _batches(modality, ingest, batch_size):
            for network, writer in ((encoder, trained), (twin, untrained)):
                for id_, vector in zip(ids, network.embed(x).numpy(), strict=True):
                    writer.add(id_, vector)


def _batches(modality: Modality, ingest: Path, size: int) -> Iterator[tuple[list[str], torch.Tensor]]:
    ids: list[str] = []
    loaded: list[torch.Tensor] = []
    total = len(store.read_table(ingest / "manifest.parquet"))
    for id_, payload in track(store.payloads(ingest), "embed", total):
        ids.append(id_)
        loaded.append(modality.load(payload))
        if len(ids) == size:
            yield ids, torch.stack(loaded)
            ids, loaded = [], []
    if ids:
        yield ids, torch.stack(loaded)


if __name__ == "__main__":
    run(main)
