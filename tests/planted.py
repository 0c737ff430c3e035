"""What the stages before a report leave behind, made by hand so that every answer is known.

60 short texts, 48 of them in train and validation. There, 6 labels are planted wrong; round 1 flags
5 of these and 3 right ones, round 2 all 6 and no other. One test label is flagged and kept.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from winnow.data import store
from winnow.data.intervals import wilson
from winnow.data.text import Text

EVIL = "<script>alert('xss')</script>"
LABELS = ["bread", EVIL]
MODALITY = Text(length=8, vocabulary=64)
WRONG = range(6)
FLAGGED = {1: [0, 1, 2, 3, 4, 10, 11, 12, 50], 2: [*range(6), 50]}
OUTLIERS, SHORT = [20, 21, 22], [30, 31]


def ids() -> list[str]:
    return [f"{i:020x}" for i in range(60)]


def write_all(root: Path) -> Path:
    """Write all that a data report and a model report read, below `root/text`."""
    home = root / "text"
    write_ingest(home / "ingest")
    for number in (1, 2):
        write_round(home, number)
    for number, accuracy in enumerate((0.80, 0.93, 0.96)):
        write_probe(home / f"probe@{number}", accuracy)
    write_models(home)
    return home


def write_ingest(out: Path) -> None:
    with store.sample_writer(out) as samples:
        for i, id_ in enumerate(ids()):
            samples.add(id_, f"text {i} says <b>{EVIL}</b> & more".encode())
    true = [LABELS[i % 2] for i in range(60)]
    given = [LABELS[(i + 1) % 2] if i in WRONG else label for i, label in enumerate(true)]
    manifest = pd.DataFrame({"id": ids(), "label": given})
    manifest["split"] = ["train"] * 36 + ["validation"] * 12 + ["test"] * 12
    manifest["group"] = pd.Series([None] * 60, dtype=object)
    manifest["source"] = [f"/home/someone/secret/{EVIL.replace('/', '')}{i}.txt" for i in range(60)]
    manifest["words"] = [1.0 if i in SHORT else 10.0 + i for i in range(60)]
    store.write_table(out / "manifest.parquet", manifest)
    store.write_table(out / "truth.parquet", pd.DataFrame({"id": ids(), "label": true}))
    rejects = {
        "source": ["broken.txt", "/home/someone/empty.txt"],
        "reason": [f"not text: {EVIL}", "cannot read /home/someone/secret/empty.txt"],
    }
    store.write_table(out / "rejects.parquet", pd.DataFrame(rejects))


def write_round(home: Path, number: int) -> None:
    manifest = store.read_table(home / "ingest" / "manifest.parquet")
    flagged = manifest.index.isin(FLAGGED[number])
    issues = pd.DataFrame({"id": ids(), "is_label_issue": flagged})
    issues["label_quality"] = np.where(flagged, 0.01, 0.9) + np.arange(60) / 1000
    issues["suggested_label"] = [LABELS[i % 2] for i in range(60)]
    issues["label_detectors"] = np.where(flagged, 3, 0)
    issues["outlier_score"] = np.linspace(0.1, 0.9, 60)
    issues["is_outlier"] = issues.index.isin(OUTLIERS)
    issues["near_duplicate_set"] = np.where(issues.index.isin([40, 41, 51]), 0, -1)
    issues["exact_duplicate_set"] = np.where(issues.index.isin([42, 43]), 0, -1)
    issues["is_short"] = issues.index.isin(SHORT)
    (home / f"audit@{number}").mkdir(parents=True)
    store.write_table(home / f"audit@{number}" / "issues.parquet", issues)
    write_json(home / f"audit@{number}" / "summary.json", summary(number))
    decide(home, number)


def decide(home: Path, number: int, **touched: Any) -> None:
    """Write decisions that drop what is flagged and free, but for what `touched` says of row 50."""
    manifest = store.read_table(home / "ingest" / "manifest.parquet")
    decisions = manifest[["id", "label"]].copy()
    dropped = [i for i in FLAGGED[number] if i < 48]
    decisions["action"], decisions["reason"], decisions["decided_by"] = "keep", "", "none"
    decisions.loc[dropped, ["action", "reason", "decided_by"]] = ["drop", "label issue", "policy"]
    for column, value in touched.items():
        decisions.loc[50, column] = value
    (home / f"curate@{number}").mkdir(parents=True, exist_ok=True)
    store.write_table(home / f"curate@{number}" / "decisions.parquet", decisions)


def summary(number: int) -> dict[str, Any]:
    rows = [{"label": label, "n": 30, "share": 0.5, "label_issues": 4} for label in LABELS]
    return {
        "evidence": "descriptors" if number == 1 else "embeddings",
        "model": "a model",
        "folds": 5,
        **measured("oof_accuracy", 54, 60),
        "n": 60,
        "classes": [{**row, "estimated_noise": 0.1} for row in rows],
        "confusions": [{"given": EVIL, "suggested": "bread", "n": 4}],
        "leakage": {"exact_across_splits": 0, "near_across_splits": 3},
        "checks": [
            check("short", "ok", rule="words < 3", n_checked=60, n_flagged=2, rate=2 / 60),
            check("garbled", "skipped", reason="nothing to check", n_checked=0, n_flagged=0, rate=0.0),
            check("language", "error", reason="RuntimeError: no model", n_flagged=0, rate=0.0),
        ],
    }


def check(name: str, status: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "status": status,
        "reason": "",
        "rule": "",
        "low": 0.0,
        "high": 0.1,
        **more,
    }


def measured(name: str, hits: int, trials: int) -> dict[str, float]:
    low, high = wilson(hits, trials)
    return {name: hits / trials, f"{name}_low": low, f"{name}_high": high}


def write_probe(out: Path, accuracy: float) -> None:
    found: dict[str, Any] = {"train_samples": 36, "test_samples": 200}
    for prefix, less in (("", 0.0), ("descriptor_", 0.1), ("random_", 0.2)):
        for kind in ("linear", "knn"):
            found |= measured(f"{prefix}{kind}_accuracy", round(200 * (accuracy - less)), 200)
    write_json(out / "metrics.json", found)


def write_models(home: Path) -> None:
    metrics: dict[str, Any] = {"test_samples": 200, "sparsity": 0.9}
    latency = {}
    sizes = {"teacher": 8000, "student": 4000, "sparse": 4000, "int8": 1000}
    for i, (name, size) in enumerate(sizes.items()):
        metrics |= measured(f"{name}_accuracy", 190 - i, 200)
        metrics |= {f"{name}_size_bytes": size, f"{name}_zstd_bytes": size // 2}
        if i:
            lost = {"points": -i / 2, "points_low": -i / 2 - 1, "points_high": 1 - i / 2}
            metrics |= {f"{name}_minus_teacher_{key}": value for key, value in lost.items()}
        times = {"p10": 0.9, "median": 1.0, "p90": 1.4}
        latency[name] = {f"batch_{b}_{k}_ms": v for b in (1, 32) for k, v in times.items()}
    ratios = {"encoder_ratio": 4.0, "encoder_zstd_ratio": 9.0, "file_ratio": 8.0}
    ratios["file_zstd_ratio"] = 8.5
    ledger = {
        "int8_bytes": {"encoder_weights": 700, "graph": 300, "embeddings": 0},
        "counted_ratio": 40.0,
        "teacher_to_int8": ratios,
        "student_to_int8": ratios,
    }
    for name, content in (("metrics", metrics), ("ledger", ledger), ("latency", latency)):
        write_json(home / "evaluate" / f"{name}.json", content)
    write_json(home / "finetune" / "metrics.json", {"val_accuracy": 0.95})
    for stage, column in (("pretrain", "loss,embedding_std"), ("prune", "loss,sparsity")):
        rows = "".join(f"{step},{1 / (step + 1)},{'' if step % 2 else 0.5}\n" for step in range(9))
        (home / stage).mkdir()
        (home / stage / "history.csv").write_text(f"step,{column}\n{rows}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
