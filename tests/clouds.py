"""Datasets whose vectors, labels and faults are known: a cloud of points for each class."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from winnow.data import audit, store
from winnow.data.judging.slices import Slicing

KIND = store.Kind("Text", "text/plain", 0.75)
JUDGE = audit.Judge(folds=5, inverse_penalty=3.0, neighbours=10)
SLICING = Slicing(bins=3, min_size=10, alpha=0.05, min_excess=0.05)


def names(number: int) -> list[str]:
    return [f"{i:020x}" for i in range(number)]


def cloud(sizes: dict[str, int], seed: int = 0, dim: int = 16) -> tuple[np.ndarray, list[Any]]:
    """Draw points around a centre for each class, in shuffled order."""
    random = np.random.default_rng(seed)
    labels = [label for label, size in sizes.items() for _ in range(size)]
    labels = [labels[i] for i in random.permutation(len(labels))]
    centres = dict(zip(sizes, 6 * np.eye(dim), strict=False))
    vectors = np.stack([centres[label] + random.normal(size=dim) for label in labels])
    return vectors.astype(np.float32), labels


def splits(number: int, validation: int = 0, test: int = 0) -> list[str]:
    """The last samples are for testing, those before them for validation."""
    train = number - validation - test
    return ["train"] * train + ["validation"] * validation + ["test"] * test


def write(
    root: Path,
    vectors: np.ndarray,
    labels: Sequence[str | None],
    *,
    split: Sequence[str] | None = None,
    group: Sequence[str | None] | None = None,
    payloads: Sequence[bytes] | None = None,
    annotations: Sequence[tuple[str, str, str]] = (),
    **measures: Sequence[float] | np.ndarray,
) -> Path:
    """Write what `ingest` would: a folder of samples, descriptors and their manifest."""
    number, ingest = len(vectors), root / "ingest"
    ingest.mkdir(parents=True)
    payloads = payloads or [f"sample {i}".encode() for i in range(number)]
    with store.sample_writer(ingest) as samples:
        for row in zip(names(number), payloads, strict=True):
            samples.add(*row)
    with store.vector_writer(ingest / "descriptors") as writer:
        for id_, vector in zip(names(number), vectors, strict=True):
            writer.add(id_, vector)
    with store.fingerprint_writer(ingest) as prints:
        for id_, payload in zip(names(number), payloads, strict=True):
            prints.add(id_, hashlib.blake2b(payload, digest_size=16).digest(), [])
    votes = pd.DataFrame(annotations, columns=["id", "annotator", "label"], dtype=object)
    store.write_table(ingest / "annotations.parquet", votes)
    store.write_kind(ingest, KIND)
    manifest = pd.DataFrame({"id": names(number)})
    manifest["label"] = pd.Series(list(labels), dtype=object)
    manifest["split"] = list(split or splits(number))
    manifest["group"] = pd.Series(list(group or [None] * number), dtype=object)
    manifest["source"] = [f"{i}.txt" for i in range(number)]
    for name, values in measures.items():
        manifest[name] = np.asarray(values, float)
    store.write_table(ingest / "manifest.parquet", manifest)
    return ingest


def run(
    ingest: Path, name: str = "audit@1", labels: Path | None = None, **changed: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Audit; give the table of issues and the summary."""
    out = ingest.parent / name
    out.mkdir()
    settings = {
        "judge": JUDGE, "near_fraction": 0.13, "exact_neighbours_up_to": 10_000, "min_class_share": 0.1,
        "checks": {}, "slicing": SLICING, "seed": 0, "engine": "local", "workers": 1,
    }  # fmt: skip
    audit.main("text", ingest, labels or ingest, ingest / "descriptors", out, **{**settings, **changed})
    return store.read_table(out / "issues.parquet"), store.read_json(out / "summary.json")
