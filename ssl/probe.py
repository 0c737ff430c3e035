"""frozen embeddings + the labels of a round → what a linear and a k-NN probe make of them."""

import logging
from pathlib import Path

from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from winnow.data import folds, store
from winnow.data.intervals import measured
from winnow.data.stage import run

_log = logging.getLogger(__name__)


def main(
    modality: str,
    ingest: Path,
    labels: Path,
    embed: Path,
    out: Path,
    *,
    inverse_penalty: float,
    neighbours: int,
) -> None:
    """Measure what the labels of a round are worth, with everything else held fixed.

    The probes learn from the train split as the round left it and are scored once, on the test split
    as delivered. The same probes on the embeddings of an untrained network and on descriptors stand
    beside them.

    Args:
        modality: names the section of params.yaml, nothing more.
        ingest: samples and their descriptors.
        labels: folder of a round's decisions, or of `ingest` for round 0.
        embed: embeddings of the encoder and of an untrained network.
        out: receives `metrics.json`.
        inverse_penalty: C of the logistic regression.
        neighbours: k of the vote.
    """
    classes = store.read_classes(ingest)
    index = {label: i for i, label in enumerate(classes)}
    decided = store.read_labels(labels, ingest)
    train = decided[(decided["split"] == "train") & decided["label"].notna()]
    delivered = store.read_table(ingest / "manifest.parquet")
    test = delivered[(delivered["split"] == "test") & delivered["label"].notna()]

    evidence = {
        "": embed / "embeddings",
        "random_": embed / "random",
        "descriptor_": ingest / "descriptors",
    }
    metrics: dict[str, float] = {"train_samples": len(train), "test_samples": len(test)}
    learned, wanted = train["label"].map(index).to_numpy(int), test["label"].map(index).to_numpy(int)
    for prefix, directory in evidence.items():
        vectors = store.read_vectors(directory, [*train["id"], *test["id"]])
        probes: dict[str, Pipeline] = {
            "linear": folds.linear(vectors, inverse_penalty),
            "knn": folds.neighbours(vectors, neighbours),
        }
        for kind, probe in probes.items():
            with threadpool_limits(1):
                probabilities = folds.fit_predict(
                    probe, vectors[: len(train)], learned, vectors[len(train) :], len(classes)
                )
            correct = probabilities.argmax(1) == wanted
            metrics |= measured(f"{prefix}{kind}_accuracy", correct)
    store.write_json(out / "metrics.json", metrics)
    _log.info(
        "%d labels: linear %.3f (untrained network %.3f, descriptor %.3f)",
        len(train),
        metrics["linear_accuracy"],
        metrics["random_linear_accuracy"],
        metrics["descriptor_linear_accuracy"],
    )


if __name__ == "__main__":
    run(main)
