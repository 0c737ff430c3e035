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

    def rule(self) -> str:
        """Say the rule in words."""
        bounds = ((" < ", self.below), (" > ", self.above))
        return " or ".join(f"{self.measure}{sign}{bound:g}" for sign, bound in bounds if bound is not None)

    def flags(self, values: np.ndarray) -> np.ndarray:
        """Flag the values beyond a bound; NaN, not measured, is not flagged."""
        low = values < (-np.inf if self.below is None else self.below)
        return low | (values > (np.inf if self.above is None else self.above))


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The fixed model that labels are judged by.

    Attributes:
        folds: number of folds.
        schemes: how samples are dealt to folds, `grouped` (a group, a speaker say, stays together) or
            `random`; duplicates stay together under both. Probabilities of several are averaged:
            the first finds what is wrong with a whole group, the second what is wrong at random.
        inverse_penalty: C of the logistic regression.
        neighbours: k of the vote, of outliers and of near duplicates.
        vote_share: weight of the neighbours in the judgement [0–1].
    """

    folds: int
    schemes: list[folds.Scheme]
    inverse_penalty: float
    neighbours: int
    vote_share: float


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
        vectors: the evidence: folder of descriptors or embeddings.
        out: receives `issues.parquet`, `summary.json`, `metrics.json`.
        judge: the model.
        near_fraction: of the median distance of nearest neighbours, below which a pair is near.
        min_class_share: of an even share, below which a class is called rare.
        checks: issues by what the modality measured.
        seed: of folds and projections.
    """
    manifest = store.read_table(ingest / "manifest.parquet")
    evidence = store.read_vectors(vectors, manifest["id"])
    exact = issues.exact_sets(payload for _, payload in store.payloads(ingest))
    with threadpool_limits(1):  # two BLAS threads on a busy machine made folds 70 times slower
        around = issues.neighbourhood(
            evidence, exact, k=judge.neighbours, near_fraction=near_fraction, seed=seed
        )
        families = folds.kin(_codes(manifest["group"]), exact, around.near_set)
        trusted = _trusted(manifest, labels, ingest)
        table, summary = _judge_labels(
            manifest, evidence, trusted, families, folds.kin(exact, around.near_set), judge, seed
        )
    table["outlier_score"], table["is_outlier"] = around.outlier_score, around.outlier
    table["near_duplicate_set"], table["exact_duplicate_set"] = around.near_set, exact

    flagged: list[dict[str, Any]] = [
        _verdict("label_issue", table["is_label_issue"].sum(), summary["n"], "calibrated margin"),
        _verdict("outlier", around.outlier.sum(), len(table), "mean neighbour distance"),
        _verdict("near_duplicate", (around.near_set >= 0).sum(), len(table), "neighbour distance"),
        _verdict("exact_duplicate", (exact >= 0).sum(), len(table), "equal payload"),
    ]
    for name, check in checks.items():
        if check.measure not in manifest:
            measured = sorted(manifest.columns[5:])
            raise BadInput(
                f"params.yaml: audit.checks.{name}: no measure {check.measure!r}; there are {measured}"
            )
        values = manifest[check.measure].to_numpy(float)
        table[f"is_{name}"] = check.flags(values)
        n = int(np.isfinite(values).sum())
        flagged.append(_verdict(name, table[f"is_{name}"].sum(), n, check.rule()))

    rare = [c for c in summary["classes"] if c["share"] * len(summary["classes"]) < min_class_share]
    flagged.append(
        _verdict("rare_class", len(rare), len(summary["classes"]), f"share < {min_class_share:g} / classes")
    )
    summary |= {
        "evidence": vectors.name,
        "checks": flagged,
        "leakage": _leakage(manifest, exact, around.near_set),
    }
    store.write_table(out / "issues.parquet", table)
    store.write_json(out / "summary.json", summary)
    metrics = {f"{check['name']}s": check["n_flagged"] for check in flagged if check["n_checked"]}
    store.write_json(out / "metrics.json", metrics | {"oof_accuracy": summary["oof_accuracy"]})
    _log.info(
        "%s: out-of-fold accuracy %.3f; %s",
        vectors.name,
        summary["oof_accuracy"],
        ", ".join(f"{check['n_flagged']} {check['name']}" for check in flagged),
    )


def _codes(column: pd.Series) -> np.ndarray:
    return pd.factorize(column)[0]


def _trusted(manifest: pd.DataFrame, labels: Path, ingest: Path) -> pd.Series:
    """Give the label that may be learned from, by id; dropped and unlabelled samples have none."""
    decided = store.read_labels(labels, ingest).set_index("id")["label"]
    return manifest["id"].map(decided).astype(object)


def _judge_labels(
    manifest: pd.DataFrame,
    evidence: folds.Vectors,
    trusted: pd.Series,
    families: np.ndarray,
    duplicates: np.ndarray,
    judge: Judge,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Judge all labels; give the table's label columns and the summary of them."""
    classes = sorted(manifest["label"].dropna().unique())
    if len(classes) < 2:
        raise BadInput(f"labels of {len(classes)} class: there is nothing to tell apart")
    index = {label: i for i, label in enumerate(classes)}
    given = manifest["label"].map(index).fillna(-1).to_numpy(int, copy=True)
    learn = trusted.map(index).fillna(-1).to_numpy(int, copy=True)
    test = (manifest["split"] == "test").to_numpy()
    learn[test] = -1
    pool = np.flatnonzero((given >= 0) & ~test)
    asked = np.flatnonzero((given >= 0) & test)
    model = folds.linear(evidence, judge.inverse_penalty)
    vote = folds.neighbours(evidence, judge.neighbours)

    def predict(kind: Any) -> np.ndarray:
        probabilities = np.zeros((len(given), len(classes)))
        for scheme in judge.schemes:
            together = families if scheme == "grouped" else duplicates
            probabilities[pool] += folds.out_of_fold(
                kind, evidence[pool], given[pool], learn[pool], together[pool],
                len(classes), folds=judge.folds, seed=seed,
            ) / len(judge.schemes)  # fmt: skip
        learned = pool[learn[pool] >= 0]
        if len(asked):
            probabilities[asked] = folds.fit_predict(
                kind, evidence[learned], learn[learned], evidence[asked], len(classes)
            )
        return probabilities

    voted = predict(vote)
    judged = (1 - judge.vote_share) * predict(model) + judge.vote_share * voted

    table = pd.DataFrame({"id": manifest["id"], "label_quality": np.nan, "is_label_issue": False})
    table["suggested_label"] = pd.Series([None] * len(table), dtype=object)
    table["suggested_confidence"], table["label_detectors"] = np.nan, 0
    for rows in (pool, asked):
        if not len(rows):
            continue
        # cleanlab wants every class to occur; a small test split may lack some.
        present = np.unique(given[rows])
        within = np.searchsorted(present, given[rows])
        share = judged[np.ix_(rows, present)].sum(1, keepdims=True)
        found = issues.label_issues(
            within, judged[np.ix_(rows, present)] / share, _renormalise(voted[np.ix_(rows, present)])
        )
        table.loc[rows, "label_quality"] = found.quality
        table.loc[rows, "is_label_issue"] = found.flagged
        table.loc[rows, "suggested_label"] = np.array(classes, object)[present[found.suggested]]
        table.loc[rows, "suggested_confidence"] = found.confidence
        table.loc[rows, "label_detectors"] = found.detectors

    return table, _label_summary(table, manifest, classes, given, judged, pool, judge)


def _renormalise(probabilities: np.ndarray) -> np.ndarray:
    return probabilities / np.maximum(probabilities.sum(1, keepdims=True), 1e-12)


def _label_summary(
    table: pd.DataFrame,
    manifest: pd.DataFrame,
    classes: list[str],
    given: np.ndarray,
    judged: np.ndarray,
    pool: np.ndarray,
    judge: Judge,
) -> dict[str, Any]:
    right = judged[pool].argmax(1) == given[pool]
    low, high = wilson(int(right.sum()), len(pool))
    noise = issues.class_noise(given[pool], judged[pool])
    suspects = table.iloc[pool][table.iloc[pool]["is_label_issue"]]
    pairs = pd.DataFrame(
        {"given": manifest.loc[suspects.index, "label"], "suggested": suspects["suggested_label"]}
    )
    counts = pairs.value_counts().reset_index(name="n").sort_values(
        ["n", "given", "suggested"], ascending=[False, True, True]
    )  # fmt: skip
    return {
        "n": int((given >= 0).sum()),
        "model": f"logistic regression C={judge.inverse_penalty:g}, {judge.neighbours}-NN vote "
        f"weighted {judge.vote_share:g}",
        "folds": judge.folds,
        "schemes": list(judge.schemes),
        "oof_accuracy": round(float(right.mean()), 6),
        "oof_accuracy_low": round(low, 6),
        "oof_accuracy_high": round(high, 6),
        "classes": [
            {
                "label": label,
                "n": int((given == i).sum()),
                "share": round(float((given == i).sum() / (given >= 0).sum()), 6),
                "label_issues": int(suspects.index.isin(np.flatnonzero(given == i)).sum()),
                "estimated_noise": round(float(noise[i]), 6),
            }
            for i, label in enumerate(classes)
        ],
        "confusions": counts.head(20).to_dict("records"),
    }


def _verdict(name: str, flagged: int, checked: int, rule: str) -> dict[str, Any]:
    """Say how a check went; what could not be checked is skipped, and never 0 found."""
    low, high = wilson(int(flagged), checked)
    return {
        "name": name,
        "rule": rule,
        "status": "ok" if checked else "skipped",
        "reason": "" if checked else "nothing to check",
        "n_checked": checked,
        "n_flagged": int(flagged),
        "rate": round(int(flagged) / checked, 6) if checked else 0.0,
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
