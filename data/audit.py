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

from winnow.data import folds, neighbours, store
from winnow.data.engine import Engine, Workers
from winnow.data.intervals import wilson
from winnow.data.judging import annotators, duplicates, issues
from winnow.data.judging.judge import Judge, Judged, judge_labels
from winnow.data.judging.opinions import Evidence
from winnow.data.judging.slices import Slicing, slices
from winnow.data.stage import BadInput, run

_log = logging.getLogger(__name__)
_NOT_MEASURES = 5  # columns of the manifest before the modality's measures


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
    modality: str,
    ingest: Path,
    labels: Path,
    vectors: Path,
    out: Path,
    *,
    judge: Judge,
    near_fraction: float,
    exact_neighbours_up_to: int,
    min_class_share: float,
    checks: dict[str, Check],
    slicing: Slicing,
    seed: int,
    engine: Engine,
    workers: int,
) -> None:
    """Look at every sample with the evidence of one round.

    Train and validation are judged out of fold. The test split is judged by a model of both, to be
    reported; nothing is learned from it. Payloads are not read: what is needed of them was taken down
    when they were ingested.

    Args:
        modality: names the section of params.yaml; what it is stands in `kind.json`.
        ingest: kind, manifest, descriptors, fingerprints, annotations.
        labels: what the model learns from: folder of `ingest`, for the labels as delivered, or of a
            round's decisions.
        vectors: the round's own evidence, folder of descriptors or embeddings; descriptors are heard in
            every round, and each evidence counts as much as it helps to predict.
        out: receives `issues.parquet`, `summary.json`, `metrics.json`.
        judge: the model.
        near_fraction: of the typical squared distance to a nearest neighbour; closer pairs are near.
        exact_neighbours_up_to: samples up to which all pairs are compared; beyond, neighbours are looked
            for, and the share that was found is reported.
        min_class_share: of an even share, below which a class is called rare.
        checks: issues by what the modality measured.
        slicing: how errors are broken down by class, group and measure.
        seed: of folds, and of the search for neighbours.
        engine: where models are fitted and neighbours looked for: "local", or "ray" for a Ray cluster.
        workers: processes at a time; 1 with "local" is this one.
    """
    manifest = store.read_table(ingest / "manifest.parquet")
    prints = store.read_fingerprints(ingest, manifest["id"])
    exact = duplicates.exact_sets(prints.identity)
    agreement = store.read_kind(ingest).min_agreement
    alike = duplicates.near_sets(prints.signature, exact, min_agreement=agreement)
    trusted, crew = _trusted(manifest, labels, ingest), Workers(engine, workers)
    # Of equal samples, one that has a vote stands for all.
    once, same = _representatives(exact, (trusted.notna() & (manifest["split"] != "test")).to_numpy())
    with threadpool_limits(1):  # two BLAS threads on a busy machine made folds 70 times slower
        evidence, around = {}, None
        for name, folder in {vectors.name: vectors, "descriptors": ingest / "descriptors"}.items():
            found = store.read_vectors(folder, manifest["id"])
            if len(once) <= judge.neighbours:
                raise BadInput(f"{len(once)} different samples are too few for {judge.neighbours} neighbours")
            graph = neighbours.graph(
                issues.comparable(found)[once], k=judge.neighbours,
                exact_up_to=exact_neighbours_up_to, seed=seed, workers=crew,
            )  # fmt: skip
            # The round's own evidence comes first: it says who is near, and who is far out.
            around = around or issues.neighbourhood(graph, near_fraction)
            graph = graph._replace(index=once[graph.index][same], distance=graph.distance[same])
            evidence[name] = Evidence(found, graph)
        assert around is not None
        near_set = duplicates.numbered(folds.kin(alike, around.near_set[same]))
        twins = folds.kin(exact, near_set)
        judged = judge_labels(manifest, evidence, trusted, twins, judge, exact_neighbours_up_to, seed, crew)
    table, summary = judged.table, judged.summary
    voices = annotators.consensus(
        store.read_table(ingest / "annotations.parquet"), manifest["id"].tolist(),
        manifest["label"].tolist(), judged.classes, judged.probabilities,
    )  # fmt: skip
    table["annotator_quality"], table["consensus_label"] = voices.quality, voices.label
    table["outlier_score"], table["is_outlier"] = around.outlier_score[same], around.outlier[same]
    table["near_duplicate_set"], table["exact_duplicate_set"] = near_set, exact

    flagged: list[dict[str, Any]] = [
        _verdict("label_issue", table["is_label_issue"], summary["n"], "probability of being wrong > 0.5"),
        _verdict("outlier", table["is_outlier"], len(table), "mean neighbour distance"),
        _verdict("near_duplicate", near_set >= 0, len(table), _near_rule(prints.signature, agreement)),
        _verdict("exact_duplicate", exact >= 0, len(table), "equal beyond the encoding"),
        *_check(table, manifest, checks),
    ]
    even = 1 / len(summary["classes"])
    rare = np.array([row["share"] < min_class_share * even for row in summary["classes"]])
    flagged.append(_verdict("rare_class", rare, len(rare), f"share < {min_class_share:g} / classes"))
    own = evidence[vectors.name].graph
    summary |= {
        "checks": flagged,
        "leakage": _leakage(manifest, exact, near_set),
        "slices": _slices(judged, manifest, slicing),
        "annotators": voices.summary,
        "graph": {"method": own.method, "recall": own.recall, "recall_sample": own.recall_sample,
                  "k": judge.neighbours},
    }  # fmt: skip
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


def _trusted(manifest: pd.DataFrame, labels: Path, ingest: Path) -> pd.Series:
    """Give the label that may be learned from, by id; dropped and unlabelled samples have none."""
    decided = store.read_labels(labels, ingest).set_index("id")["label"]
    return manifest["id"].map(decided).astype(object)


def _representatives(exact: np.ndarray, preferred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose one row of each set of equal samples; give the rows, and which of them each sample has."""
    sets = np.where(exact < 0, exact.max(initial=-1) + 1 + np.arange(len(exact)), exact)
    order = np.lexsort((np.arange(len(exact)), ~preferred))
    _, first, inverse = np.unique(sets[order], return_index=True, return_inverse=True)
    place = np.empty(len(exact), int)
    place[order] = inverse
    return order[first], place


def _near_rule(signature: np.ndarray, agreement: float) -> str:
    if not signature.shape[1]:
        return "neighbour distance"
    return f"neighbour distance, or {agreement:.0%} of the signature in common"


def _check(table: pd.DataFrame, manifest: pd.DataFrame, checks: dict[str, Check]) -> list[dict[str, Any]]:
    """Add a flag for each check to the table; give the verdicts."""
    measures = manifest.columns[_NOT_MEASURES:]
    verdicts = []
    for name, check in checks.items():
        if check.measure not in measures:
            raise BadInput(
                f"params.yaml: audit.checks.{name}: no measure {check.measure!r}; "
                f"there are {sorted(measures)}"
            )
        values = manifest[check.measure].to_numpy(float)
        table[f"is_{name}"] = check.flags(values)
        n = int(np.isfinite(values).sum())
        verdicts.append(_verdict(name, table[f"is_{name}"], n, check.rule()))
    return verdicts


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


def _slices(judged: Judged, manifest: pd.DataFrame, slicing: Slicing) -> list[dict[str, Any]]:
    here = manifest.loc[judged.differs.index]
    names = ["label", "group", *manifest.columns[_NOT_MEASURES:]]
    return slices(judged.differs.to_numpy(), {name: here[name] for name in names}, slicing)


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
