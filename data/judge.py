"""What a fixed model thinks of the given labels, from all evidence there is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from winnow.data import folds, issues
from winnow.data.folds import Scheme
from winnow.data.intervals import wilson
from winnow.data.stage import BadInput


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The fixed model that labels are judged by.

    Attributes:
        folds: number of folds.
        schemes: how samples are dealt to folds, `grouped` (a group, a speaker say, stays together)
            or `random`; duplicates stay together under both. Probabilities of several are averaged:
            the first finds what is wrong with a whole group, the second what is wrong at random.
        inverse_penalty: C of the logistic regression.
        neighbours: k of the vote, of outliers and of near duplicates.
        vote_share: weight of the neighbours in the judgement [0–1].
    """

    folds: int
    schemes: list[Scheme]
    inverse_penalty: float
    neighbours: int
    vote_share: float


def judge_labels(
    manifest: pd.DataFrame,
    evidence: dict[str, folds.Vectors],
    trusted: pd.Series,
    families: np.ndarray,
    duplicates: np.ndarray,
    judge: Judge,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Judge all labels.

    Train and validation are judged out of fold; test samples by a model of both, and nothing is
    learned from them.

    Args:
        manifest: `id, label, split`.
        evidence: vectors of the samples, by name.
        trusted: the label to learn from, None where a sample is not to be learned from.
        families: samples that share a fold under the scheme `grouped`.
        duplicates: the same under `random`.
        judge: the model.
        seed: of the folds.

    Returns:
        The label columns of the issue table, and the summary of them.

    Raises:
        BadInput: if there is but one class.
    """
    classes = sorted(manifest["label"].dropna().unique())
    if len(classes) < 2:
        raise BadInput(f"labels of {len(classes)} class: there is nothing to tell apart")
    index = {label: i for i, label in enumerate(classes)}
    given = manifest["label"].map(index).fillna(-1).to_numpy(int, copy=True)
    learn = trusted.map(index).fillna(-1).to_numpy(int, copy=True)
    test = (manifest["split"] == "test").to_numpy()
    learn[test] = -1
    pool = np.flatnonzero((given >= 0) & ~test)
    # Nobody knows what a class looks like that is in the test split alone.
    asked = np.flatnonzero((given >= 0) & test & np.isin(given, given[pool]))
    learned = pool[learn[pool] >= 0]

    def predict(kind: Any, vectors: folds.Vectors) -> np.ndarray:
        probabilities = np.zeros((len(given), len(classes)))
        for scheme in judge.schemes:
            together = families if scheme == "grouped" else duplicates
            probabilities[pool] += folds.out_of_fold(
                kind, vectors[pool], given[pool], learn[pool], together[pool],
                len(classes), folds=judge.folds, seed=seed,
            ) / len(judge.schemes)  # fmt: skip
        if len(asked):
            probabilities[asked] = folds.fit_predict(
                kind, vectors[learned], learn[learned], vectors[asked], len(classes)
            )
        return probabilities

    votes, opinions = [], []
    for vectors in evidence.values():
        votes.append(predict(folds.neighbours(vectors, judge.neighbours), vectors))
        opinion = predict(folds.linear(vectors, judge.inverse_penalty), vectors)
        opinions.append((1 - judge.vote_share) * opinion + judge.vote_share * votes[-1])
    # Evidence counts as much as it helps to predict labels out of fold: all that were given, since the
    # trusted ones were chosen by an earlier round, and would flatter the evidence that chose them.
    shares = folds.mixture([opinion[pool, given[pool]] for opinion in opinions])
    judged = np.tensordot(shares, np.stack(opinions), 1)
    voted = np.tensordot(shares, np.stack(votes), 1)

    table = pd.DataFrame({"id": manifest["id"], "label_quality": np.nan, "is_label_issue": False})
    table["suggested_label"] = pd.Series([None] * len(table), dtype=object)
    table["suggested_confidence"], table["label_detectors"] = np.nan, 0
    for rows in (pool, asked):
        # cleanlab wants every class to occur; a small test split may lack some.
        present = np.unique(given[rows])
        if len(present) < 2:
            continue
        within = np.searchsorted(present, given[rows])
        found = issues.label_issues(
            within,
            _renormalise(judged[np.ix_(rows, present)]),
            _renormalise(voted[np.ix_(rows, present)]),
        )
        table.loc[rows, "label_quality"] = found.quality
        table.loc[rows, "is_label_issue"] = found.flagged
        table.loc[rows, "suggested_label"] = np.array(classes, object)[present[found.suggested]]
        table.loc[rows, "suggested_confidence"] = found.confidence
        table.loc[rows, "label_detectors"] = found.detectors

    summary = _label_summary(table, manifest, classes, given, judged, pool, judge)
    names = (f"{name} {share:.0%}" for name, share in zip(evidence, shares, strict=True))
    return table, summary | {"evidence": " + ".join(names) if len(shares) > 1 else next(iter(evidence))}


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
    present, within = np.unique(given[pool], return_inverse=True)
    noise = dict(
        zip(
            present,
            issues.class_noise(within, _renormalise(judged[np.ix_(pool, present)])),
            strict=True,
        )
    )
    suspects = table.iloc[pool][table.iloc[pool]["is_label_issue"]]
    pairs = pd.DataFrame(
        {"given": manifest.loc[suspects.index, "label"], "suggested": suspects["suggested_label"]}
    )
    counts = pairs.value_counts().reset_index(name="n").sort_values(
        ["n", "given", "suggested"], ascending=[False, True, True]
    )  # fmt: skip
    return {
        "n": int(table["label_quality"].notna().sum()),
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
                "estimated_noise": round(float(noise[i]), 6) if i in noise else None,
            }
            for i, label in enumerate(classes)
        ],
        "confusions": counts.head(20).to_dict("records"),
    }
