"""issue scores + policy + human reviews → decisions: keep, relabel, drop, each with its reason.

Decisions of a round are complete: they are about the data as delivered, and replace those of the round
before. The test split is kept as it is, whatever the scores say.
"""

import csv
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from winnow.data import store
from winnow.data.modality import Modality
from winnow.data.stage import BadInput, run

_log = logging.getLogger(__name__)

ACTIONS = ("keep", "relabel", "drop")
COLUMNS = ["id", "action", "label", "reviewer", "note"]


@dataclass(frozen=True, kw_only=True)
class LabelPolicy:
    """What is done about a flagged label without a human.

    Attributes:
        action: `drop` the sample, `relabel` it to the suggestion, `hybrid` (relabel where the
            suggestion is sure, else drop), or `review`, which leaves all to humans.
        min_detectors: how many of the three detectors have to agree.
        sure: probability of the suggestion from which `hybrid` relabels [0–1].
    """

    action: Literal["drop", "relabel", "hybrid", "review"]
    min_detectors: int
    sure: float


def main(
    modality: Modality,
    ingest: Path,
    audit: Path,
    reviews: Path,
    out: Path,
    *,
    labels: LabelPolicy,
    drop_exact_duplicates: bool,
    drop_near_duplicates: bool,
    drop_outliers: bool,
    drop_checks: list[str],
    max_dropped_share: float,
) -> None:
    """Decide about every sample.

    Args:
        modality: what the samples are.
        ingest: the manifest.
        audit: scores of the round.
        reviews: CSV of human decisions: `id, action, label, reviewer, note`; they win over policy.
        out: receives `decisions.parquet` (`id, action, label, reason, decided_by`), `metrics.json`.
        labels: what to do about label issues.
        drop_exact_duplicates: keep one of a set; all go if their labels differ, or if one is in
            the test split.
        drop_near_duplicates: the same for near duplicates, whose labels may differ.
        drop_outliers: drop what is far from everything.
        drop_checks: names of the audit's checks whose issues are dropped.
        max_dropped_share: of a class, that policy may drop [0–1]; the least suspicious beyond it
            are kept.
    """
    manifest = store.read_table(ingest / "manifest.parquet")
    scores = store.read_table(audit / "issues.parquet")
    if list(scores["id"]) != list(manifest["id"]):
        raise BadInput(f"{audit} is about other samples than {ingest}: audit them again")
    decisions = pd.DataFrame({"id": manifest["id"], "action": "keep", "label": manifest["label"]})
    decisions["reason"], decisions["decided_by"] = "", "none"
    free = (manifest["split"] != "test").to_numpy()

    def decide(rows: np.ndarray, action: str, reason: str) -> None:
        rows = rows & free & (decisions["action"] == "keep").to_numpy()
        decisions.loc[rows, ["action", "reason", "decided_by"]] = [action, reason, "policy"]

    if drop_exact_duplicates:
        doubles, conflicting = _surplus(manifest, scores["exact_duplicate_set"])
        decide(conflicting, "drop", "exact duplicates with different labels")
        decide(doubles, "drop", "exact duplicate of a kept sample")
    if drop_near_duplicates:
        # What is gone already makes nothing else surplus.
        left = scores["near_duplicate_set"].where(decisions["action"] == "keep", -1)
        decide(_surplus(manifest, left)[0], "drop", "near duplicate of a kept sample")
    for name in drop_checks:
        if f"is_{name}" not in scores:
            known = sorted(c.removeprefix("is_") for c in scores if c.startswith("is_"))
            raise BadInput(f"params.yaml: curate.drop_checks: no check {name!r}; there are {known}")
        decide(scores[f"is_{name}"].to_numpy(), "drop", name)
    if drop_outliers:
        decide(scores["is_outlier"].to_numpy(), "drop", "outlier")
    _decide_labels(decide, decisions, scores, labels)

    _cap(decisions, manifest, scores, max_dropped_share)
    _review(decisions, manifest, reviews)
    store.write_table(out / "decisions.parquet", decisions)
    metrics = _metrics(decisions, manifest)
    store.write_json(out / "metrics.json", metrics)
    _log.info("%(kept)d kept, %(relabelled)d relabelled, %(dropped)d dropped", metrics)


def _surplus(manifest: pd.DataFrame, sets: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Find the members of sets that are one too many, and the sets whose labels differ."""
    member = (sets >= 0).to_numpy()
    # A twin in the test split makes the others surplus: the test split is the one that stays. Else
    # one that has a label does.
    late = manifest.assign(free=manifest["split"] != "test", blank=manifest["label"].isna())
    first = late.sort_values(["free", "blank"], kind="stable")
    kept = ~sets[first.index].duplicated().reindex(manifest.index).to_numpy()
    labels = manifest["label"].where(manifest["label"].notna())
    conflicting = member & (labels.groupby(sets).transform("nunique") > 1).to_numpy()
    return member & ~kept, conflicting


def _decide_labels(
    decide: Callable[[np.ndarray, str, str], None],
    decisions: pd.DataFrame,
    scores: pd.DataFrame,
    policy: LabelPolicy,
) -> None:
    if policy.action == "review":
        return
    flagged = (scores["is_label_issue"] & (scores["label_detectors"] >= policy.min_detectors)).to_numpy()
    sure = (scores["suggested_confidence"] >= policy.sure).to_numpy()
    relabel = {"drop": np.zeros_like(sure), "relabel": np.ones_like(sure), "hybrid": sure}
    rows = flagged & relabel[policy.action]
    before = (decisions["action"] == "relabel").to_numpy()
    decide(rows, "relabel", "label issue")
    new = (decisions["action"] == "relabel").to_numpy() & ~before
    decisions.loc[new, "label"] = scores.loc[new, "suggested_label"]
    decide(flagged & ~rows, "drop", "label issue")


def _cap(decisions: pd.DataFrame, manifest: pd.DataFrame, scores: pd.DataFrame, share: float) -> None:
    """Take back what policy drops of a class beyond its share, the least suspicious first."""
    free = manifest["split"] != "test"
    for _, members in manifest[free].groupby("label", sort=True):
        dropped = members.index[decisions.loc[members.index, "action"] == "drop"]
        allowed = int(share * len(members))
        if len(dropped) <= allowed:
            continue
        by_quality = scores.loc[dropped, "label_quality"].sort_values(kind="stable")
        back = by_quality.index[allowed:]
        decisions.loc[back, "action"] = "keep"
        why = decisions.loc[back, "reason"]
        decisions.loc[back, "reason"] = "kept: the class has lost its share (" + why + ")"


def _review(decisions: pd.DataFrame, manifest: pd.DataFrame, reviews: Path) -> None:
    """Let human decisions win.

    Raises:
        BadInput: naming file, line and remedy, if a decision cannot be carried out.
    """
    classes = set(manifest["label"].dropna())
    row_of = {id_: row for row, id_ in enumerate(manifest["id"])}
    seen: dict[str, int] = {}
    for line, review in _read(reviews):
        where, id_, action = f"{reviews}, line {line}", review["id"], review["action"]
        if id_ not in row_of:
            raise BadInput(f"{where}: no sample has the id {id_!r}; remove the line")
        if id_ in seen:
            raise BadInput(f"{where}: {id_!r} was decided in line {seen[id_]} already; remove one")
        if action not in ACTIONS:
            raise BadInput(f"{where}: action {action!r} is none of {ACTIONS}")
        row = row_of[id_]
        if manifest.at[row, "split"] == "test":
            raise BadInput(
                f"{where}: {id_} is a test sample; the test split is never changed here. "
                "Mend it at the source, and it is a new test split"
            )
        if action == "relabel" and review["label"] not in classes:
            raise BadInput(f"{where}: label {review['label']!r} is none of {sorted(classes)}")
        seen[id_] = line
        label = review["label"] if action == "relabel" else manifest.at[row, "label"]
        reason = f"{review['reviewer']}: {review['note']}".strip(": ")
        decided = [action, label, reason, "human"]
        decisions.loc[row, ["action", "label", "reason", "decided_by"]] = decided


def _read(reviews: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Give each review with the number of its line; spreadsheets may have put a mark in front."""
    with reviews.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise BadInput(f"{reviews}: columns are {reader.fieldnames}, not {COLUMNS}")
        for review in reader:
            if len(review) > len(COLUMNS) or None in review.values():
                raise BadInput(
                    f"{reviews}, line {reader.line_num}: not {len(COLUMNS)} values; "
                    "a note with a comma in it needs quotes around it"
                )
            yield reader.line_num, review


def _metrics(decisions: pd.DataFrame, manifest: pd.DataFrame) -> dict[str, int | float]:
    free = manifest[(manifest["split"] != "test") & manifest["label"].notna()]
    kept = decisions.loc[free.index, "action"] != "drop"
    retention = kept.groupby(free["label"]).mean()
    metrics: dict[str, int | float] = {
        "kept": int((decisions["action"] == "keep").sum()),
        "relabelled": int((decisions["action"] == "relabel").sum()),
        "dropped": int((decisions["action"] == "drop").sum()),
        "by_humans": int((decisions["decided_by"] == "human").sum()),
        "retention_min_class": round(float(retention.min()), 6),
    }
    if free["group"].notna().any():
        metrics["retention_min_group"] = round(float(kept.groupby(free["group"]).mean().min()), 6)
    return metrics


if __name__ == "__main__":
    run(main)
