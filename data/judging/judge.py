"""What a fixed model thinks of the given labels, and which of them it holds to be wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from winnow.data import folds
from winnow.data.engine import HERE, Workers
from winnow.data.judging import guards, issues, label_summary, noise, opinions, slices, systematic
from winnow.data.judging.opinions import Evidence, Pool
from winnow.data.neighbours import Graph
from winnow.data.stage import BadInput

DETECTORS = ("by_margin", "by_filter", "by_neighbours", "by_group")


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The fixed model that labels are judged by.

    Attributes:
        folds: number of folds.
        inverse_penalty: C of the logistic regression.
        neighbours: k of the vote, of outliers and of near duplicates.
    """

    folds: int
    inverse_penalty: float
    neighbours: int


class Judged(NamedTuple):
    """Judgement of all labels.

    Attributes:
        table: the label columns of the issue table.
        summary: numbers about them.
        probabilities: of each class `[sample, class]`, the label not considered; 0 where not judged.
        classes: names of the columns.
        differs: rows that were judged out of fold, and whether the prediction differs from the label.
    """

    table: pd.DataFrame
    summary: dict[str, Any]
    probabilities: np.ndarray
    classes: list[str]
    differs: pd.Series


def judge_labels(
    manifest: pd.DataFrame,
    evidence: Mapping[str, Evidence],
    trusted: pd.Series,
    duplicate: np.ndarray,
    judge: Judge,
    exact_up_to: int,
    seed: int,
    workers: Workers = HERE,
) -> Judged:
    """Judge all labels.

    Train and validation are judged out of fold, twice where there are groups: by models that know a
    sample's group, which see what is wrong at random, and by models that do not, which see what is wrong
    with a whole group. Test samples are judged by models of both splits; nothing is learned from them.

    Args:
        manifest: `id, label, split, group`.
        evidence: vectors of the samples and their neighbours, by name.
        trusted: the label to learn from, None where a sample is not to be learned from.
        duplicate: family of duplicates of each sample: they share a fold.
        judge: the model.
        exact_up_to: samples beyond which neighbours in other groups are not looked for.
        seed: of the folds.
        workers: who fits the models.

    Raises:
        BadInput: if there is but one class.
    """
    classes = sorted(manifest["label"].dropna().unique())
    if len(classes) < 2:
        raise BadInput(f"labels of {len(classes)} class: there is nothing to tell apart")
    pool = _pool(manifest, trusted, classes)
    rows = pool.judged
    groups = pd.factorize(manifest["group"])[0]

    fold = {"random": _deal(pool, duplicate, judge.folds, seed)}
    said = opinions.of_strangers(evidence, pool, fold["random"], judge.inverse_penalty, workers)
    shares = opinions.weigh(said, pool)
    judged, voted = opinions.mix(said, shares), opinions.mix(said, shares, models=[opinions.VOTE])
    guards.refuse_other_order(pool.given[rows], judged[rows], classes)
    model = issues.noise_model(judged[rows], pool.given[rows], seed)

    table = _unjudged(manifest)
    wrong, true = np.zeros(len(manifest)), np.zeros_like(judged)
    for part, fitted in ((rows, model), (pool.asked, _of_test(model, judged, pool, seed))):
        if not len(part):
            continue
        true[part] = fitted.true(judged[part], pool.given[part])
        wrong[part] = fitted.wrong(judged[part], pool.given[part])
    detected = _detect(table, rows, pool, judged, voted, seed)
    if len(np.unique(pool.given[pool.asked])) > 1:
        _detect(table, pool.asked, pool, judged, voted, seed)
    suggested, sure = true.argmax(1), true.max(1)

    families = folds.kin(groups, duplicate)
    met = len(np.unique(families[rows][groups[rows] >= 0]))
    accuracy = {"random": judged}
    group_wise = systematic.Systematic(np.zeros(len(rows)), np.full(len(rows), -1), [], "no groups are known")
    if met >= 2:
        number = min(judge.folds, len(np.unique(families[rows])))
        fold["grouped"] = _deal(pool, families, number, seed)
        apart = opinions.of_other_groups(
            evidence,
            pool,
            fold["grouped"],
            judge.inverse_penalty,
            judge.neighbours,
            exact_up_to,
            workers,
        )
        accuracy["grouped"] = opinions.mix(apart, opinions.weigh(apart, pool))
        best = max(evidence, key=lambda name: opinions.share(shares, name))
        group_wise = systematic.look(
            accuracy["grouped"][rows], pool.given[rows], groups[rows], _within(evidence[best].graph, rows)
        )
    accused = rows[group_wise.suggested >= 0]
    here = group_wise.suggested >= 0
    wrong[accused] = 1 - (1 - wrong[accused]) * (1 - group_wise.wrong[here])
    suggested[accused], sure[accused] = group_wise.suggested[here], group_wise.wrong[here]
    table.loc[accused, "by_group"] = True

    every = np.concatenate([rows, pool.asked])
    table.loc[every, "label_quality"] = 1 - wrong[every]
    table.loc[every, "is_label_issue"] = wrong[every] > 0.5
    table.loc[every, "suggested_label"] = np.array(classes, object)[suggested[every]]
    table.loc[every, "suggested_confidence"] = sure[every]
    table["label_detectors"] = table[list(DETECTORS)].sum(axis=1).astype(int)
    for scheme in ("random", "grouped"):
        table[f"fold_{scheme}"] = fold.get(scheme, np.full(len(table), -1))

    differs = pd.Series(judged[rows].argmax(1) != pool.given[rows], index=rows)
    summary = {
        "n": int(table["label_quality"].notna().sum()),
        "model": f"logistic regression C={judge.inverse_penalty:g} and votes of neighbours, "
        "weighed by likelihood; noise of labels by likelihood",
        "folds": judge.folds,
        "schemes": list(fold),
        **label_summary.accuracies(accuracy, pool),
        "evidence": label_summary.sentence(shares),
        "evidence_found": label_summary.evidence_found(said, shares, pool, seed),
        "detectors": label_summary.alone({name: table[name].to_numpy()[rows] for name in DETECTORS}),
        "noise": {
            "off_diagonal": round(detected.off_diagonal, 6),
            "calibrated": round(detected.calibrated, 6),
            "posterior": round(float(wrong[rows].mean()), 6),
            "sharpness": round(model.sharpness, 6),
        },
        "classes": label_summary.classes(classes, pool, table, wrong),
        "confusions": label_summary.confusions(manifest, table, rows),
        "pairs": slices.ambiguous_pairs(
            judged[rows], pool.given[rows], classes, most=label_summary.MOST_PAIRS
        ),
        "cells": label_summary.cells(group_wise, manifest, groups, classes),
        "cells_reason": group_wise.reason,
    }
    return Judged(table, summary, judged, classes, differs)


def _pool(manifest: pd.DataFrame, trusted: pd.Series, classes: list[str]) -> Pool:
    index = {label: i for i, label in enumerate(classes)}
    given = manifest["label"].map(index).fillna(-1).to_numpy(int, copy=True)
    learn = trusted.map(index).fillna(-1).to_numpy(int, copy=True)
    test = (manifest["split"] == "test").to_numpy()
    learn[test] = -1
    rows = np.flatnonzero((given >= 0) & ~test)
    # Nobody knows what a class looks like that is in the test split alone.
    asked = np.flatnonzero((given >= 0) & test & np.isin(given, given[rows]))
    return Pool(given, learn, len(classes), rows, asked)


def _deal(pool: Pool, families: np.ndarray, number: int, seed: int) -> np.ndarray:
    fold = np.full(len(pool.given), -1)
    fold[pool.judged] = folds.deal(pool.given[pool.judged], families[pool.judged], number, seed)
    return fold


def _of_test(model: noise.NoiseModel, judged: np.ndarray, pool: Pool, seed: int) -> noise.NoiseModel:
    """Fit the noise of the test split, which may be better or worse than the others'."""
    if not len(pool.asked):
        return model
    rows = pool.asked
    return noise.fit(judged[rows], pool.given[rows], model.transition, seed=seed, sharpness=model.sharpness)


def _unjudged(manifest: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"id": manifest["id"], "label_quality": np.nan, "is_label_issue": False})
    table["suggested_label"] = pd.Series([None] * len(table), dtype=object)
    table["suggested_confidence"] = np.nan
    for name in DETECTORS:
        table[name] = False
    return table


def _present(labels: np.ndarray, *probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Leave classes out that do not occur: cleanlab wants every class to."""
    present, within = np.unique(labels, return_inverse=True)
    parts = (part[:, present] for part in probabilities)
    return within, *(part / np.maximum(part.sum(1, keepdims=True), 1e-12) for part in parts)


def _detect(
    table: pd.DataFrame, rows: np.ndarray, pool: Pool, judged: np.ndarray, voted: np.ndarray, seed: int
) -> issues.Detected:
    labels, judged, voted = _present(pool.given[rows], judged[rows], voted[rows])
    found = issues.detect(labels, judged, voted, seed)
    for name in ("by_margin", "by_filter", "by_neighbours"):
        table.loc[rows, name] = getattr(found, name)
    return found


def _within(graph: Graph, rows: np.ndarray) -> Graph:
    """Give the graph of some rows; a neighbour that is none of them is the sample itself."""
    place = np.full(len(graph.index), -1)
    place[rows] = np.arange(len(rows))
    index = place[graph.index[rows]]
    own = np.arange(len(rows))[:, None]
    return graph._replace(index=np.where(index < 0, own, index), distance=graph.distance[rows])
