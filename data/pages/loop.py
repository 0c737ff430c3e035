"""A round of the data-centric loop, as a report tells it: what was found and what was decided."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from winnow.data import store
from winnow.data.pages import chapters, claims, findings


def refuse_touched_test(table: pd.DataFrame, number: int) -> None:
    """Check that a round left the test split as it was delivered.

    Raises:
        ValueError: if a test sample was dropped or its label changed.
    """
    test = table[table["split"] == "test"]
    same = (test["decided"] == test["given"]) | (test["decided"].isna() & test["given"].isna())
    touched = test.loc[(test["action"] != "keep") | ~same, "id"].tolist()
    if touched:
        raise ValueError(
            f"round {number} touches {len(touched)} samples of the test split, which nothing may "
            f"change: {touched[:3]}"
        )


def tell(audit: Path, number: int, table: pd.DataFrame, examples: int, last: bool) -> dict[str, Any]:
    """Collect a round; samples that are much the same in all rounds are shown for the last."""
    summary = store.read_json(audit / "summary.json")
    shown = examples if last else 0
    counts = table["action"].value_counts()
    given = table["given"].dropna()
    return {
        "round": number,
        **{key: summary.get(key) for key in ("evidence", "model", "folds")},
        "accuracy": claims.measured(summary, "oof_accuracy"),
        "largest_class": float(given.value_counts(normalize=True).iloc[0]) if len(given) else None,
        "labels": findings.labels(table),
        "label_examples": findings.label_examples(table, examples),
        "judged_by": chapters.evidence(summary, number),
        "classes": findings.classes(table, summary.get("classes", [])),
        "confusions": findings.confusions(summary.get("confusions", [])),
        "outliers": findings.outliers(table, shown),
        "exact": findings.duplicates(table, "exact_duplicate_set", shown),
        "near": findings.duplicates(table, "near_duplicate_set", shown),
        "leakage": summary.get("leakage") or {},
        "checks": findings.checks(summary.get("checks", []), table, shown),
        "decided": {action: int(counts.get(action, 0)) for action in ("keep", "relabel", "drop")},
        "actions": findings.actions(table),
    }


def last_chapters(audit: Path, number: int) -> dict[str, Any]:
    """Collect what is told of the last round alone."""
    summary = store.read_json(audit / "summary.json")
    return {
        "slices": chapters.slices(summary, number),
        "cells": chapters.cells(summary, number),
        "annotators": chapters.annotators(summary, number),
    }


def noise(judged: Mapping[int, pd.DataFrame]) -> list[dict[str, Any]]:
    """Follow the wrong labels over the rounds; empty where no wrong label is known."""
    first = next(iter(judged.values()))
    if not findings.planted(first).any():
        return []
    everything = pd.Series(True, index=first.index)
    rows = [{"round": 0, **findings.wrong_left(first, "given", everything)}]
    for number, table in judged.items():
        left = findings.wrong_left(table, "decided", table["action"] != "drop")
        rows.append({"round": number, **left})
    return rows
