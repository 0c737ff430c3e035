"""What the stages before the report tell of a large dataset, as JSON that was made up."""

from typing import Any

import numpy as np
import pandas as pd

from winnow.data.intervals import wilson

CLASSES = [str(digit) for digit in range(10)]
MEASURES = ("brightness_p05", "brightness_p99", "entropy_bits", "sharpness", "aspect_ratio")


def check(name: str, flagged: int, n: int, rule: str) -> dict[str, Any]:
    """Tell of a check that ran."""
    low, high = wilson(flagged, n)
    found = {"name": name, "rule": rule, "status": "ok", "reason": "", "low": low, "high": high}
    return {**found, "n_checked": n, "n_flagged": flagged, "rate": flagged / n}


def summary(manifest: pd.DataFrame, issues: pd.DataFrame, checks: list[dict[str, Any]]) -> dict[str, Any]:
    """Tell what an audit says of its samples."""
    n, counts = len(manifest), manifest["label"].value_counts()
    flagged = manifest.loc[issues["is_label_issue"], "label"].value_counts()
    total = int(issues["is_label_issue"].sum())
    slices = [
        {"by": by, "slice": name, "status": "ok", "reason": "", **error(members, issues)}
        for by in ("label", "group")
        for name, members in manifest.groupby(by).groups.items()
    ]
    return {
        "n": n,
        "evidence": "descriptors 40% + embeddings 60%",
        "model": "logistic regression and neighbours",
        "folds": 5,
        "oof_accuracy": 0.86,
        "oof_accuracy_low": 0.858,
        "oof_accuracy_high": 0.862,
        "classes": [
            {
                "label": label,
                "n": int(counts[label]),
                "share": counts[label] / n,
                "label_issues": int(flagged.get(label, 0)),
                "estimated_noise": 0.05 + int(label) / 100,
            }
            for label in CLASSES
        ],
        "confusions": [
            {"given": "4", "suggested": "9", "n": 300},
            {"given": "3", "suggested": "8", "n": 200},
        ],
        "leakage": {
            "exact_across_splits": 120,
            "near_across_splits": 340,
            "groups_across_splits": 0,
            "conflicting_labels": 60,
        },
        "checks": checks,
        "evidence_found": [
            {"name": "descriptors", "share": 0.4, "flagged": total * 3 // 4, "alone": total // 9},
            {"name": "embeddings", "share": 0.6, "flagged": total * 4 // 5, "alone": total // 7},
        ],
        "detectors": [
            {"name": name, "flagged": total * part // 10, "alone": total // 20}
            for name, part in (("by_margin", 9), ("by_filter", 8), ("by_neighbours", 7), ("by_group", 1))
        ],
        "scheme_accuracy": [
            {"name": "random", "value": 0.88, "low": 0.878, "high": 0.882, "n": n},
            {"name": "grouped", "value": 0.84, "low": 0.838, "high": 0.842, "n": n},
        ],
        "noise": {"off_diagonal": 0.09, "calibrated": 0.104, "posterior": 0.098},
        "pairs": [
            {"a": "4", "b": "9", "n": 812, "share": 0.041},
            {"a": "3", "b": "8", "n": 640, "share": 0.032},
        ],
        "cells_reason": "",
        "cells": [
            {
                "group": f"writer {i:03}",
                "label": CLASSES[i % 10],
                "n": 40 + i,
                "suggested": CLASSES[(i + 1) % 10],
                "probability": 0.95 - i / 100,
            }
            for i in range(12)
        ],
        "slices": slices,
        "annotators": {
            "status": "ok",
            "reason": "",
            "n": n // 2,
            "changed": n // 90,
            "annotators": [
                {
                    "annotator": f"annotator {i:02}",
                    "n": n // 20,
                    "agreement": 0.95 - i / 60,
                    "quality": 0.97 - i / 50,
                    "worst_class": CLASSES[i % 10],
                }
                for i in range(20)
            ],
        },
        "graph": {"method": "hnsw", "recall": 0.993, "recall_sample": 1000, "k": 10},
    }


def error(members: pd.Index, issues: pd.DataFrame) -> dict[str, Any]:
    """Tell how often a slice errs, and whether that is more than the rest."""
    wrong = int(issues.loc[members, "is_label_issue"].sum())
    low, high = wilson(wrong, len(members))
    rest = float(issues["is_label_issue"].mean())
    excess = wrong / len(members) - rest
    return {
        "n": len(members),
        "errors": wrong,
        "error": wrong / len(members),
        "low": low,
        "high": high,
        "p": 0.01,
        "q": 0.04,
        "excess": excess,
        "worse": low > rest,
    }


def probe(accuracy: float) -> dict[str, Any]:
    """Tell what a probe measured."""
    found: dict[str, Any] = {"train_samples": 70_000, "test_samples": 15_000}
    for prefix, less in (("", 0.0), ("descriptor_", 0.04), ("random_", 0.2)):
        for kind in ("linear", "knn"):
            low, high = wilson(round(15_000 * (accuracy - less)), 15_000)
            name = f"{prefix}{kind}_accuracy"
            found |= {name: accuracy - less, f"{name}_low": low, f"{name}_high": high}
    return found


def drift() -> dict[str, Any]:
    """Tell of splits that differ a little."""
    whole = {
        "status": "ok",
        "reason": "",
        "effect": 0.02,
        "effect_name": "total variation",
        "p": 0.3,
        "q": 0.4,
        "drifted": False,
    }
    features = [
        {
            **whole,
            "name": name,
            "kind": "measure",
            "effect": 0.03 * i,
            "effect_name": "Kolmogorov–Smirnov D",
            "q": 0.2 / (i + 1) ** 3,
            "drifted": i > 3,
            "mean_a": 0.6,
            "mean_b": 0.6 + i / 50,
            "shift": i / 10,
        }
        for i, name in enumerate(MEASURES)
    ]
    domain = {"status": "ok", "reason": "", "auc": 0.53, "low": 0.51, "high": 0.55, "p": 0.01}
    ran = {
        "status": "ok",
        "reason": "",
        "n_a": 70_000,
        "n_b": 15_000,
        "features": features,
        "domain": domain,
        "label_shift": whole,
        "groups": whole,
    }
    later = {"status": "skipped", "reason": "no version was accepted yet", "n_a": 0, "n_b": 0, "features": []}
    names = [
        ("validation", "train", "validation", ran),
        ("test", "train", "test", ran),
        ("version", "accepted", "this version", later),
    ]
    return {
        "schema_version": 1,
        "comparisons": [{"name": name, "a": a, "b": b, **one} for name, a, b, one in names],
    }


def effect(random: np.random.Generator) -> dict[str, Any]:
    """Tell what cleaning brought, of five seeds."""
    means = {
        "delivered": 0.89,
        "random_drop@1": 0.888,
        "round@1": 0.912,
        "random_drop@2": 0.886,
        "round@2": 0.928,
        "oracle": 0.941,
    }
    measures = []
    for measure, more in (("probe", 0.0), ("finetune", 0.03)):
        arms = []
        for arm, mean in means.items():
            seeds = (mean + more + random.normal(0, 0.003, 5)).tolist()
            arms.append(
                {
                    "arm": arm,
                    "n": 63_000,
                    "dropped": 7_000,
                    "relabelled": 0,
                    "accuracies": seeds,
                    "mean": float(np.mean(seeds)),
                    "low": min(seeds),
                    "high": max(seeds),
                }
            )
        gains = [
            {
                "arm": arm,
                "against": against,
                "value_points": 100 * (means[arm] - means[against]),
                "low_points": 100 * (means[arm] - means[against]) - 0.8,
                "high_points": 100 * (means[arm] - means[against]) + 0.8,
                "verdict": "gain",
            }
            for arm, against in (
                ("round@1", "delivered"),
                ("round@2", "delivered"),
                ("round@2", "random_drop@2"),
                ("oracle", "delivered"),
            )
        ]
        measures.append(
            {
                "measure": measure,
                "status": "ok",
                "reason": "",
                "arms": arms,
                "gains": gains,
                "absent": [],
                "recovery": [
                    {"arm": "round@2", "status": "ok", "reason": "", "value": 0.75, "low": 0.6, "high": 0.9}
                ],
            }
        )
    return {"schema_version": 1, "measures": measures}
