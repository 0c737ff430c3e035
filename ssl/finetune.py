"""encoder + labels → the classifier that becomes the teacher."""

from pathlib import Path
from typing import Any

import torch

from winnow.data import store
from winnow.data.modality import Modality
from winnow.ssl import model as models
from winnow.ssl import train
from winnow.ssl.classification import Classification, accuracy, predict


def main(
    modality: Modality,
    ingest: Path,
    labels: Path,
    pretrain: Path,
    out: Path,
    *,
    model: dict[str, Any],
    data: dict[str, Any],
    trainer: dict[str, Any],
    threads: int,
    logs: Path,
) -> None:
    """Train trunk and head on the labels of the last round.

    Args:
        modality: what the samples are.
        ingest: samples.
        labels: decisions of the last round.
        pretrain: the encoder to start from.
        out: receives `model.safetensors`, `config.json`, `history.csv`, `metrics.json`.
        model: arguments of `Classification`.
        data: arguments of `Samples`.
        trainer: arguments of Lightning's `Trainer`.
        threads: of torch.
        logs: receives logs and checkpoints.
    """
    samples = {
        "modality": models.section(modality),
        "ingest": str(ingest),
        "labels": str(labels),
        "labelled": True,
    }
    method, history = train.fit(
        Classification,
        model={"encoder": str(pretrain), **model},
        data={**samples, **data},
        trainer=trainer,
        threads=threads,
        logs=logs,
    )
    models.save(method.classifier, out)
    history.write(out / "history.csv")
    logits, label = [], []
    for batch in method.trainer.datamodule.batches("validation", 256):  # type: ignore[attr-defined]
        logits.append(predict(method.classifier, batch.x, 256))
        label.append(batch.label)
    score = accuracy(torch.cat(logits), torch.cat(label))
    store.write_json(out / "metrics.json", {"val_accuracy": round(score, 6)})


if __name__ == "__main__":
    train.run(main, Classification)
