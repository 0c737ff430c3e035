"""samples + descriptors or embeddings → one row of issue scores per sample.

Scores and flags only: what is done about them is decided in `curate`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from winnow.data import folds, issues, store
from winnow.data.intervals import wilson
from winnow.data.judge import Judge, judge_labels
from winnow.data.modality import Modality
from winnow.data.stage import BadInput, run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A measure of the modality beyond which a sample is an issue.

    Attributes:
        measure: column of the manifest.
        below: a smaller value is an issue.
        above: a larger value is an issue.
    """

    measure: str
    below: float | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        if self.below is None and self.above is None:
            raise ValueError(f"a check of {self.measure!r} needs `below` or `above`")

    def rule(self) -> str:
        """Say the rule in words."""
        bounds = ((" < ", self.below), (" > ", self.above))
        return " or ".join(f"{self.measure}{sign}{bound:g}" for sign, bound in bounds if bound is not None)

    def flags(self, values: np.ndarray) -> np.ndarray:
        """Flag the values beyond a bound; NaN, not measured, is not flagged."""
        low = values < (-np.inf if self.below is None else self.below)
        return low | (values > (np.inf if self.above is None else self.above))


def main(
    modality: Modality,
    ingest: Path,
    labels: Path,
    vectors: Path,
    out: Path,
    *,
    judge: Judge,
    near_fraction: float,
    min_class_share: float,
    checks: dict[str, Check],
    seed: int,
) -> None:
    """Look at every sample with the evidence of one round.

    Train and validation are judged out of fold. The test split is judged by a model of both, to be
    reported; nothing is learned from it.

    Args:
        modality: what the samples are.
        ingest: samples, manifest.
        labels: what the model learns from: folder of `ingest`, for the labels as delivered, or of a
            round's decisions.
        vectors: the round's own evidence, folder of descriptors or embeddings; descriptors are heard in
            every round, and each evidence counts as much as it helps to predict.
        out: receives `issues.parquet`, `summary.json`, `metrics.json`.
        judge: the model.
        near_fraction: of the typical squared distance to a nearest neighbour; closer pairs are near.
        min_class_share: of an even share, below which a class is called rare.
        checks: issues by what the modality measured.
        seed: of folds.
    """
    manifest = store.read_table(ingest / "manifest.parquet")
    evidence = _evidence(ingest, vectors, manifest["id"])
    exact = issues.exact_sets(payload for _, payload in store.payloads(ingest))
    with threadpool_limits(1):  # two BLAS threads on a busy machine made folds 70 times slower
        around = issues.neighbourhood(
            evidence[vectors.name], exact, k=judge.neighbours, near_fraction=near_fraction
        )
        families = folds.kin(_codes(manifest["group"]), exact, around.near_set)
        trusted = _trusted(manifest, labels, ingest)
        table, summary = judge_labels(
            manifest, evidence, trusted, families, folds.kin(exact, around.near_set), judge, seed
        )
    table["outlier_score"], table["is_outlier"] = around.outlier_score, around.outlier
    table["near_duplicate_set"], table["exact_duplicate_set"] = around.near_set, exact

    flagged: list[dict[str, Any]] = [
        _verdict("label_issue", table["is_label_issue"], summary["n"], "calibrated margin"),
        _verdict("outlier", around.outlier, len(table), "mean neighbour distance"),
        _verdict("near_duplicate", around.near_set >= 0, len(table), "neighbour distance"),
        _verdict("exact_duplicate", exact >= 0, len(table), "equal payload"),
    ]
    for name, check in checks.items():
        if check.measure not in manifest.columns[5:]:
            raise BadInput(
                f"params.yaml: audit.checks.{name}: no measure {check.measure!r}; "
                f"there are {sorted(manifest.columns[5:])}"
            )
        values = manifest[check.measure].to_numpy(float)
        table[f"is_{name}"] = check.flags(values)
        n = int(np.isfinite(values).sum())
        flagged.append(_verdict(name, table[f"is_{name}"], n, check.rule()))

    even = 1 / len(summary["classes"])
    rare = np.array([row["share"] < min_class_share * even for row in summary["classes"]])
    rule = f"share < {min_class_share:g} / classes"
    flagged.append(_verdict("rare_class", rare, len(rare), rule))
    summary |= {
        "checks": flagged,
        "leakage": _leakage(manifest, exact, around.near_set),
    }
    store.write_table(out / "issues.parquet", table)
    store.write_json(out / "summary.json", summary)
    metrics = {f"{check['name']}_flagged": check["n_flagged"] for check in flagged if check["n_checked"]}
    store.write_json(out / "metrics.json", metrics | {"oof_accuracy": summary["oof_accuracy"]})
    _log.info(
        "%s: out-of-fold accuracy %.3f; %s",
        summary["evidence"],
        summary["oof_accuracy"],
        ", ".join(f"{check['n_flagged']} {check['name']}" for check in flagged),
    )


def _evidence(ingest: Path, vectors: Path, ids: pd.Series) -> dict[str, folds.Vectors]:
    """Read a round's own vectors, and the descriptors that every round has."""
    directories = {"descriptors": ingest / "descriptors", vectors.name: vectors}
    return {name: store.read_vectors(directory, ids) for name, directory in directories.items()}


def _codes(column: pd.Series) -> np.ndarray:
    return pd.factorize(column)[0]


def _trusted(manifest: pd.DataFrame, labels: Path, ingest: Path) -> pd.Series:
    """Give the label that may be learned from, by id; dropped and unlabelled samples have none."""
    decided = store.read_labels(labels, ingest).set_index("id")["label"]
    return manifest["id"].map(decided).astype(object)


def _verdict(name: str, flags: np.ndarray | pd.Series, checked: int, rule: str) -> dict[str, Any]:
    """Say how a check went; what could not be checked is skipped, and never 0 found."""
    flagged = int(np.sum(flags))
    low, high = wilson(flagged, checked)
    return {
        "name": name,
        "rule": rule,
        "status": "ok" if checked else "skipped",
        "reason": "" if checked else "nothing to check",
        "n_checked": checked,
        "n_flagged": flagged,
        "rate": round(flagged / checked, 6) if checked else 0.0,
        "low": round(low, 6),
        "high": round(high, 6),
    }


def _leakage(manifest: pd.DataFrame, exact: np.ndarray, near: np.ndarray) -> dict[str, int]:
    """Count the samples whose equals, near equals or group stand in another split as well."""

    def across(families: pd.Series) -> int:
        known = manifest[families.notna() & (families != -1)]
        splits = known.groupby(families[known.index])["split"].transform("nunique")
        return int((splits > 1).sum())

    sets = pd.Series(exact, manifest.index)
    twins = manifest[(sets >= 0) & manifest["label"].notna()]
    conflicting = twins.groupby(sets[twins.index])["label"].transform("nunique") > 1
    return {
        "exact_across_splits": across(sets),
        "near_across_splits": across(pd.Series(near, manifest.index)),
        "groups_across_splits": across(manifest["group"]),
        "conflicting_labels": int(conflicting.sum()),
    }


if __name__ == "__main__":
    run(main)
