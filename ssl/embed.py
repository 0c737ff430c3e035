"""encoder + samples → one embedding per sample, of the encoder and of an untrained twin."""

import math
from pathlib import Path

import torch
from rich.progress import track

from winnow.data import reading, store
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
    models.require_modality("encoder", encoder, modality)
    torch.manual_seed(seed)
    twin = Encoder(modality, encoder.shape).eval()
    with (
        store.vector_writer(out / "embeddings") as trained,
        store.vector_writer(out / "random") as untrained,
        torch.inference_mode(),
    ):
        number = len(store.read_table(ingest / "manifest.parquet", ["id"]))
        batches = reading.everything(modality, ingest, batch_size)
        for ids, x in track(batches, "embed", math.ceil(number / batch_size)):
            for network, writer in ((encoder, trained), (twin, untrained)):
                for id_, vector in zip(ids, network.embed(x).numpy(), strict=True):
                    writer.add(id_, vector)


if __name__ == "__main__":
    run(main)
