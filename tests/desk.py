"""A small dataset, what an audit says of it, and what reviewers say: all that `curate` reads."""

import json
from pathlib import Path
from typing import Any

import clouds
import numpy as np
import pandas as pd

from winnow.data import curate, store
from winnow.data.deciding import policy
from winnow.data.deciding.review_queue import Queue

OLD_HEADER = "id,action,label,reviewer,note\n"
HEADER = "id,action,label,reviewer,note,stratum\n"
NUMBER = 40
NAMES = clouds.names(NUMBER)


def label_policy(action: Any, **changed: Any) -> policy.LabelPolicy:
    settings = {"min_detectors": 2, "min_probability": 0.5, "sure": 0.8}
    return policy.LabelPolicy(action=action, **{**settings, **changed})


def caps(share_of_class: float = 1.0, share_of_group: float = 1.0, min_kept: int = 0) -> policy.Caps:
    return policy.Caps(share_of_class=share_of_class, share_of_group=share_of_group, min_kept=min_kept)


def queue(suspects: int = 5, blind: int = 3, max_class_share: float = 1.0, hints: bool = False) -> Queue:
    return Queue(suspects=suspects, blind=blind, max_class_share=max_class_share, hints=hints)


# By default nothing is decided; each test turns on what it is about.
IDLE: dict[str, Any] = {
    "labels": label_policy("review"),
    "drop_exact_duplicates": False,
    "drop_near_duplicates": False,
    "drop_outliers": False,
    "drop_checks": [],
    "caps": caps(),
    "queue": queue(),
    "seed": 0,
}


def scores(names: list[str], suggested: list[Any]) -> pd.DataFrame:
    """An audit that finds nothing."""
    number = len(names)
    table = pd.DataFrame({"id": names, "is_label_issue": False, "label_detectors": 0})
    for name in ("margin", "filter", "neighbours", "group"):
        table[f"by_{name}"] = False
    table["label_quality"] = np.linspace(0.9, 0.99, number)
    table["suggested_label"] = pd.Series(suggested, dtype=object)
    table["suggested_confidence"] = 0.9
    table["consensus_label"] = pd.Series([None] * number, dtype=object)
    table["annotator_quality"] = np.nan
    table["outlier_score"] = np.linspace(0.2, 0.9, number)
    table["is_outlier"], table["is_short"] = False, False
    table["exact_duplicate_set"] = table["near_duplicate_set"] = -1
    return table


class Desk:
    """A dataset of 40 samples, of which the last 8 are for testing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.labels: list[str | None] = ["ant" if i % 2 else "bee" for i in range(NUMBER)]
        self.group: list[str | None] = [None] * NUMBER
        self.reviews = HEADER
        self.scores = scores(NAMES, ["bee" if i % 2 else "ant" for i in range(NUMBER)])
        self.cells: list[dict[str, Any]] = []

    def flag(self, rows: list[int], *detectors: str, confidence: float = 0.9, quality: Any = None) -> None:
        """Let detectors speak against labels, by default model and neighbours; the first row most."""
        for name in detectors or ("margin", "filter", "neighbours"):
            self.scores.loc[rows, f"by_{name}"] = True
        self.scores.loc[rows, ["is_label_issue", "suggested_confidence"]] = [True, confidence]
        rising = np.linspace(0.05, 0.3, len(rows)) if quality is None else quality
        self.scores.loc[rows, "label_quality"] = rising

    def duplicate(self, rows: list[int], kind: str = "exact", number: int = 0) -> None:
        self.scores.loc[rows, f"{kind}_duplicate_set"] = number

    def write(self) -> None:
        """Write dataset, audit and reviews."""
        if not (self.root / "ingest").exists():
            split = clouds.splits(NUMBER, validation=6, test=8)
            vectors = np.zeros((NUMBER, 2), np.float32)
            clouds.write(self.root, vectors, self.labels, split=split, group=self.group)
        (self.root / "audit@1").mkdir(exist_ok=True)
        store.write_table(self.root / "audit@1" / "issues.parquet", self.scores)
        store.write_json(self.root / "audit@1" / "summary.json", {"cells": self.cells})
        (self.root / "reviews.csv").write_text(self.reviews, encoding="utf-8")

    def run(self, name: str = "curate@1", kind: store.Kind | None = None, **changed: Any) -> pd.DataFrame:
        """Decide; give the table of decisions."""
        self.write()
        if kind is not None:
            store.write_kind(self.root / "ingest", kind)
        self.out = self.root / name
        self.out.mkdir()
        curate.main(
            "any",
            self.root / "ingest",
            self.root / "audit@1",
            self.root / "reviews.csv",
            self.out,
            **{**IDLE, **changed},
        )
        self.metrics = store.read_json(self.out / "metrics.json")
        self.summary = store.read_json(self.out / "summary.json")
        lines = (self.out / "actions.jsonl").read_text(encoding="utf-8").splitlines()
        self.log = [json.loads(line) for line in lines]
        return store.read_table(self.out / "decisions.parquet")


def rows(decisions: pd.DataFrame, action: str) -> list[int]:
    return decisions.index[decisions["action"] == action].tolist()
