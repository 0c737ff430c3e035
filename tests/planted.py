"""What the stages before a report leave behind, made by hand so that every answer is known.

60 short texts, 48 of them in train and validation. There, 6 labels are planted wrong; round 1 flags
5 of these and 3 right ones, round 2 all 6 and no other. One test label is flagged and kept.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from winnow.data import report, store
from winnow.data.intervals import wilson
from winnow.data.modality import Modality
from winnow.data.pages import questions
from winnow.data.pages.gates import Limits
from winnow.data.text import Text

EVIL = "<script>alert('xss')</script>"
LABELS = ["bread", EVIL]
MODALITY = Text(length=8, vocabulary=64)
WRONG = range(6)
FLAGGED = {1: [0, 1, 2, 3, 4, 10, 11, 12, 50], 2: [*range(6), 50]}
LIMITS = {name: Limits(warn=0.0, fail=None) for name in questions.GATES}
LIMITS |= {"judge": Limits(warn=None, fail=0.0), "checks_failed": Limits(warn=0.0, fail=0.0)}
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
    write_embeddings(home)
    write_drift(home)
    write_effect(home)
    write_json(accepted(root), {})
    return home


def write_report(home: Path, out: Path, *, modality: Modality = MODALITY, **numbers: Any) -> Path:
    """Run the stage on what `write_all` left, with other numbers where they are given."""
    out.mkdir(parents=True)
    usual = {"rounds": [1, 2], "examples": 24, "map_samples": 40, "min_group": 6, "gates": LIMITS, "seed": 0}
    report.main(modality, home / "ingest", home, accepted(home.parent), out, **{**usual, **numbers})
    return out


def accepted(root: Path) -> Path:
    """Where the last accepted report is: none, as `write_all` leaves it."""
    return root / "accepted" / "text.json"


def write_ingest(out: Path) -> None:
    with store.sample_writer(out) as samples:
        for i, id_ in enumerate(ids()):
            samples.add(id_, f"text {i} says <b>{EVIL}</b> & more".encode())
    true = [LABELS[i % 2] for i in range(60)]
    given = [LABELS[(i + 1) % 2] if i in WRONG else label for i, label in enumerate(true)]
    manifest = pd.DataFrame({"id": ids(), "label": given})
    manifest["split"] = ["train"] * 36 + ["validation"] * 12 + ["test"] * 12
    manifest["group"] = [f"speaker {EVIL}{i // 6}" for i in range(60)]
    manifest["source"] = [f"/home/someone/secret/{EVIL.replace('/', '')}{i}.txt" for i in range(60)]
    manifest["words"] = [1.0 if i in SHORT else 10.0 + i for i in range(60)]
    store.write_kind(out, store.Kind("Text", "text/plain", 0.75))
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
    for detector in ("by_margin", "by_filter", "by_neighbours"):
        issues[detector] = flagged
    issues["by_group"] = False
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
    changed = decisions[decisions["action"] != "keep"]
    lines = [
        json.dumps({"id": row.id, "action": row.action, "decided_by": row.decided_by})
        for row in changed.itertuples()
    ]
    (home / f"curate@{number}" / "actions.jsonl").write_text("".join(f"{line}\n" for line in lines))
    waiting = [ids()[i] for i in (50, 13, 14)]  # a suspicion, and two of the blind sample
    (home / f"curate@{number}" / "queue.csv").write_text(
        "\n".join(["id,label", *(f"{i}," for i in waiting)]) + "\n"
    )


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
        "leakage": {"exact_across_splits": 0, "near_across_splits": 3, "groups_across_splits": 0},
        "checks": [
            check("short", "ok", rule="words < 3", n_checked=60, n_flagged=2, rate=2 / 60),
            check("garbled", "skipped", reason="nothing to check", n_checked=0, n_flagged=0, rate=0.0),
            check("language", "error", reason="RuntimeError: no model", n_flagged=0, rate=0.0),
        ],
        "evidence_found": [
            {"name": "descriptors", "share": 0.75, "flagged": 9, "alone": 4},
            {"name": "embeddings", "share": 0.25, "flagged": 5, "alone": 0},
        ],
        "detectors": [{"name": name, "flagged": 7, "alone": 1} for name in ("margin", "neighbours")],
        "scheme_accuracy": [{"name": "random", "value": 0.9, "low": 0.8, "high": 0.95, "n": 60}],
        "noise": {"off_diagonal": 0.08, "calibrated": 0.1, "posterior": 0.09},
        "pairs": [{"a": "bread", "b": EVIL, "n": 6, "share": 0.1}],
        "cells_reason": "",
        "cells": [
            {"group": f"group {EVIL}", "label": "bread", "n": 9, "suggested": EVIL, "probability": 0.87}
        ],
        "slices": [
            slice_("class", "bread", 30, 3, worse=False),
            slice_("group", f"speaker {EVIL}", 12, 9, worse=True),
        ],
        "annotators": {
            "status": "ok",
            "reason": "",
            "n": 60,
            "changed": 3,
            "annotators": [
                {
                    "annotator": f"ann {EVIL}",
                    "n": 50,
                    "agreement": 0.9,
                    "quality": 0.8,
                    "worst_class": "bread",
                },
                {"annotator": "bob", "n": 20, "agreement": 0.5, "quality": 0.4, "worst_class": EVIL},
            ],
        },
        "graph": {"method": "exact", "recall": None, "recall_sample": 0, "k": 10},
    }


def slice_(by: str, name: str, n: int, errors: int, worse: bool) -> dict[str, Any]:
    low, high = wilson(errors, n)
    test = {"p": 0.01, "q": 0.02, "excess": errors / n - 0.1, "worse": worse}
    return {
        "by": by,
        "slice": name,
        "n": n,
        "errors": errors,
        "error": errors / n,
        "low": low,
        "high": high,
        **test,
    }


def write_embeddings(home: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("embeddings", "random"):
        with store.vector_writer(home / "embed" / name) as vectors:
            for i, id_ in enumerate(ids()):
                vectors.add(id_, random.normal(3 * (i % 2), 1, 8).astype(np.float32))


def write_drift(home: Path) -> None:
    feature = {
        "kind": "measure",
        "status": "ok",
        "reason": "",
        "effect_name": "Kolmogorov–Smirnov D",
        "p": 0.001,
    }
    compared = {
        "name": "test",
        "a": "train",
        "b": "test",
        "status": "ok",
        "reason": "",
        "n_a": 36,
        "n_b": 12,
        "features": [
            {
                **feature,
                "name": f"words {EVIL}",
                "effect": 0.4,
                "q": 0.003,
                "drifted": True,
                "mean_a": 1.0,
                "mean_b": 2.0,
                "shift": 0.7,
            },
            {**feature, "name": "letters", "effect": 0.1, "q": 0.2, "drifted": False},
            {
                **feature,
                "name": "seconds",
                "status": "skipped",
                "reason": "not measured",
                "effect": None,
                "q": None,
                "drifted": None,
            },
        ],
        "domain": {"status": "ok", "reason": "", "auc": 0.71, "low": 0.62, "high": 0.8, "p": 0.002},
        "label_shift": {
            "status": "ok",
            "reason": "",
            "effect": 0.05,
            "effect_name": "total variation",
            "p": 0.4,
            "q": 0.5,
            "drifted": False,
        },
        "groups": {"status": "skipped", "reason": "there are no groups"},
    }
    nothing = {"name": "version", "a": "accepted", "b": "this", "status": "skipped", "n_a": 0, "n_b": 60}
    write_json(
        home / "drift" / "drift.json",
        {"schema_version": 1, "comparisons": [compared, {**nothing, "reason": "nothing was accepted"}]},
    )
    write_json(home / "drift" / "profile.json", {"schema_version": 1, "n": 60})


def write_effect(home: Path) -> None:
    means = {
        "delivered": 0.80,
        "random_drop@1": 0.79,
        "round@1": 0.86,
        "random_drop@2": 0.78,
        "round@2": 0.90,
        "oracle": 0.92,
    }
    arms = [
        {
            "arm": name,
            "n": 36,
            "dropped": 2,
            "relabelled": 1,
            "accuracies": [mean - 0.01, mean, mean + 0.01],
            "mean": mean,
            "low": mean - 0.02,
            "high": mean + 0.02,
        }
        for name, mean in means.items()
    ]
    gains = [
        {
            "arm": "round@2",
            "against": against,
            "value_points": 100 * (0.90 - means[against]),
            "low_points": 2.0,
            "high_points": 14.0,
            "verdict": "gain",
        }
        for against in ("delivered", "random_drop@2")
    ]
    ran = {"measure": "probe", "status": "ok", "reason": "", "arms": arms, "gains": gains}
    ran["absent"] = [{"arm": "random_drop@3", "reason": f"round 3 drops nothing {EVIL}"}]
    ran["recovery"] = [
        {"arm": "round@2", "status": "ok", "reason": "", "value": 0.83, "low": 0.4, "high": 1.2}
    ]
    skipped = {"measure": "finetune", "status": "skipped", "reason": f"no time for {EVIL}"}
    write_json(home / "effect" / "effect.json", {"schema_version": 1, "measures": [ran, skipped]})


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
    latency["int8_engine"] = {"batch_1_p10_ms": 0.3, "batch_1_median_ms": 0.4, "batch_1_p90_ms": 0.5}
    latency["int8_engine"] |= {f"batch_32_{key}_ms": 0.2 for key in times} | {"classes_that_differ": 1}
    ratios = {"counted": 40.0, "zipped": 20.0, "packed": 16.0, "compressed": 24.0, "whole_file": 32.0}
    ratios |= {"whole_file_zstd": 30.0, "onnx_file": 8.0, "onnx_file_zstd": 9.0}
    parts = {"encoder_values": (700, 300, 100, 90), "encoder_indices": (0, 0, 50, 40)}
    parts |= {"embeddings": (0, 0, 0, 0), "container": (300, 100, 120, 120)}
    forms = ("onnx", "onnx_zstd", "packed", "bundle")
    ledger = {
        "parts": {name: dict(zip(forms, row, strict=True)) for name, row in parts.items()},
        "teacher_to_int8": ratios,
        "student_to_int8": {**ratios, "counted": 20.0},
    }
    metrics["bundle_size_bytes"] = 250
    metrics |= measured("posttraining_static_accuracy", 150, 200)
    metrics |= {f"posttraining_static_minus_teacher_points{end}": -20.0 for end in ("", "_low", "_high")}
    metrics["posttraining_static_size_bytes"] = 1010
    for name in sizes:
        metrics |= {f"{name}_parameters": 2000, f"{name}_nonzeros": 400, f"{name}_multiply_adds": 9000}
    metrics |= {f"sparse_minus_student_points{end}": -0.5 for end in ("", "_low", "_high")}
    for name, content in (("metrics", metrics), ("ledger", ledger), ("latency", latency)):
        write_json(home / "evaluate" / f"{name}.json", content)
    write_json(home / "finetune" / "metrics.json", {"val_accuracy": 0.95})
    rows = "".join(f"{step},{1 / (step + 1)},{'' if step % 2 else 0.5},{32 * step}\n" for step in range(9))
    (home / "pretrain").mkdir()
    (home / "pretrain" / "history.csv").write_text(f"step,loss,embedding_std,samples\n{rows}")
    trained = (("teacher", "finetune"), ("student", "distill"), ("sparse", "prune"), ("int8", "quantize"))
    rows = "".join(
        f"{model},{stage},{step},{32 * step},{1 / (step + 1)},{0.5 if model == 'sparse' else ''}\n"
        for model, stage in trained
        for step in range(9)
    )
    (home / "evaluate" / "training.csv").write_text(f"model,stage,step,samples,loss,sparsity\n{rows}")
    matrices = [f"encoder.layers.{i}.{name}" for i in (0, 1) for name in ("attention.query", "fc1")]
    rows = "".join(f"{name}.weight,96,0.9,0.925,0.5,{0.5 + i}\n" for i, name in enumerate(matrices))
    header = "name,weights,sparsity,int8_sparsity,loss_at_0.0,loss_at_0.9\n"
    (home / "evaluate" / "layers.csv").write_text(header + rows)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
