from pathlib import Path

import numpy as np
import pytest
import runs

from winnow.data import store
from winnow.data.intervals import wilson
from winnow.data.store import read_classes
from winnow.ssl import probe


def plant(root: Path, ingest: Path, signal: float, seed: int = 0) -> Path:
    """Write embeddings that tell the delivered classes apart as clearly as asked; noise for a twin."""
    random = np.random.default_rng(seed)
    manifest = store.read_table(ingest / "manifest.parquet")
    codes = np.eye(8)[[read_classes(ingest).index(label) for label in manifest["label"]]]
    for name, strength in (("embeddings", signal), ("random", 0.0)):
        with store.vector_writer(root / name) as writer:
            vectors = strength * codes + random.normal(0, 1, codes.shape)
            for id_, vector in zip(manifest["id"], vectors, strict=True):
                writer.add(id_, vector.astype(np.float32))
    return root


def run(ingest: Path, labels: Path, embeddings: Path, out: Path) -> dict[str, float]:
    out.mkdir(parents=True)
    probe.main("any", ingest, labels, embeddings, out, inverse_penalty=3.0, neighbours=5)
    return store.read_json(out / "metrics.json")


def split(ingest: Path, name: str) -> list[str]:
    manifest = store.read_table(ingest / "manifest.parquet")
    return list(manifest[manifest["split"] == name]["id"])


def test_separable_embeddings_are_classified_without_an_error(ingested: Path, tmp_path: Path) -> None:
    embeddings = plant(tmp_path / "embed", ingested, signal=100)
    metrics = run(ingested, ingested, embeddings, tmp_path / "out")
    assert metrics["linear_accuracy"] == metrics["knn_accuracy"] == 1.0
    assert metrics["linear_accuracy_high"] == 1.0
    number = len(split(ingested, "test"))
    assert metrics["linear_accuracy_low"] == pytest.approx(wilson(number, number)[0], abs=1e-6)


def test_noise_is_classified_by_chance(ingested: Path, tmp_path: Path) -> None:
    accuracies: list[float] = []
    for seed in range(3):
        embeddings = plant(tmp_path / f"embed{seed}", ingested, signal=0, seed=seed)
        metrics = run(ingested, ingested, embeddings, tmp_path / f"out{seed}")
        names = ("linear_accuracy", "knn_accuracy", "random_linear_accuracy", "random_knn_accuracy")
        accuracies += [metrics[name] for name in names]
    assert np.mean(accuracies) == pytest.approx(1 / 3, abs=0.15)


def test_every_number_has_an_interval_and_stands_beside_its_controls(ingested: Path, tmp_path: Path) -> None:
    embeddings = plant(tmp_path / "embed", ingested, signal=2)
    metrics = run(ingested, ingested, embeddings, tmp_path / "out")
    assert metrics.pop("train_samples") == len(split(ingested, "train"))
    assert metrics.pop("test_samples") == len(split(ingested, "test"))
    names = {f"{who}{kind}_accuracy" for who in ("", "random_", "descriptor_") for kind in KINDS}
    assert set(metrics) == {f"{name}{end}" for name in names for end in ("", "_low", "_high")}
    for name in names:
        assert 0 <= metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"] <= 1
        assert metrics[f"{name}_low"] < metrics[f"{name}_high"]
    assert metrics["linear_accuracy"] > metrics["random_linear_accuracy"]
    assert metrics["descriptor_linear_accuracy"] > 0.5  # of data that descriptors can tell apart


KINDS = ("linear", "knn")


def test_two_runs_leave_the_same_bytes(ingested: Path, tmp_path: Path) -> None:
    embeddings = plant(tmp_path / "embed", ingested, signal=2)
    for name in ("one", "two"):
        run(ingested, ingested, embeddings, tmp_path / name)
    runs.assert_same_files(tmp_path / "one", tmp_path / "two")


def test_a_rounds_decisions_about_test_samples_do_not_touch_the_score(ingested: Path, tmp_path: Path) -> None:
    """Drop, relabel or unlabel what was hard, and the number must not move."""
    embeddings = plant(tmp_path / "embed", ingested, signal=2)
    delivered = run(ingested, ingested, embeddings, tmp_path / "delivered")
    test, classes = split(ingested, "test"), read_classes(ingested)
    labels = runs.decide(
        ingested,
        tmp_path / "labels",
        *test[:4],
        **dict.fromkeys(test[4:8], classes[0]),
        **dict.fromkeys(test[8:]),
    )
    assert run(ingested, labels, embeddings, tmp_path / "out") == delivered


def test_learns_from_the_labels_of_the_round(ingested: Path, tmp_path: Path) -> None:
    """With the classes turned around in the train split alone, every prediction is wrong."""
    embeddings = plant(tmp_path / "embed", ingested, signal=100)
    manifest = store.read_table(ingested / "manifest.parquet").set_index("id")
    classes = read_classes(ingested)
    turned = {
        id_: classes[(classes.index(manifest["label"][id_]) + 1) % 3] for id_ in split(ingested, "train")
    }
    labels = runs.decide(ingested, tmp_path / "labels", **turned)
    metrics = run(ingested, labels, embeddings, tmp_path / "out")
    assert metrics["linear_accuracy"] == metrics["knn_accuracy"] == 0.0


def test_dropped_and_unlabelled_samples_teach_nothing(ingested: Path, tmp_path: Path) -> None:
    embeddings = plant(tmp_path / "embed", ingested, signal=2)
    train = split(ingested, "train")
    dropped = runs.decide(ingested, tmp_path / "dropped", *train[::3])
    nameless = runs.decide(ingested, tmp_path / "nameless", **dict.fromkeys(train[::3]))
    one = run(ingested, dropped, embeddings, tmp_path / "one")
    assert one == run(ingested, nameless, embeddings, tmp_path / "two")
    assert one["train_samples"] == len(train) - len(train[::3])


def test_validation_samples_are_neither_learned_from_nor_scored(ingested: Path, tmp_path: Path) -> None:
    embeddings = plant(tmp_path / "embed", ingested, signal=2)
    labels = runs.decide(ingested, tmp_path / "labels", *split(ingested, "validation"))
    assert run(ingested, labels, embeddings, tmp_path / "a") == run(
        ingested, ingested, embeddings, tmp_path / "b"
    )
