"""issue scores + policy + human reviews → decisions: keep, relabel, drop, each with its reason.

Decisions of a round are complete: they are about the data as delivered, and replace those of the round
before. The test split is kept as it is, whatever the scores say. Samples without a label get none from
policy: a model's guess is no label; a human may give one.
"""

import csv
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from winnow.data import store
from winnow.data.deciding import actions, label_studio, policy, review_queue
from winnow.data.deciding import reviews as human
from winnow.data.deciding.label_studio import Hint
from winnow.data.deciding.policy import Caps, LabelPolicy, Suggestion
from winnow.data.deciding.review_queue import BLIND, SUSPECT, Queue
from winnow.data.deciding.reviews import Review
from winnow.data.stage import BadInput, run

_log = logging.getLogger(__name__)

QUEUE_COLUMNS = ["id", "action", "label", "reviewer", "note", "ticket", "given_label", "source"]
_COPIES = (policy.EXACT, policy.NEAR, policy.CONFLICT)


def main(
    modality: str,
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
    caps: Caps,
    queue: Queue,
    seed: int,
) -> None:
    """Decide about every sample.

    Args:
        modality: names the section of params.yaml; what it is stands in `kind.json`.
        ingest: kind and manifest; the samples, where they are texts to be reviewed.
        audit: what the round found, `issues.parquet` and `summary.json`.
        reviews: CSV of human decisions; they win over policy and caps, and hold for exact copies.
        out: receives `decisions.parquet` (`id, action, label, reason, decided_by`), `actions.jsonl`,
            `queue.csv`, `queue.json`, `summary.json`, `metrics.json`.
        labels: what to do about label issues.
        drop_exact_duplicates: keep one of a set; all go if their labels differ, or if one is in
            the test split.
        drop_near_duplicates: the same for near duplicates, whose labels may differ.
        drop_outliers: drop what is far from everything.
        drop_checks: names of the audit's checks whose issues are dropped.
        caps: how much policy may take of a class and of a group.
        queue: what reviewers are asked next.
        seed: of the blind part of the queue.
    """
    manifest = store.read_table(ingest / "manifest.parquet")
    scores = store.read_table(audit / "issues.parquet")
    if list(scores["id"]) != list(manifest["id"]):
        raise BadInput(f"{audit} is about other samples than {ingest}: audit them again")
    suggested = policy.suggestions(manifest, scores, store.read_json(audit / "summary.json")["cells"])
    decided = policy.decide(
        manifest,
        scores,
        suggested,
        labels=labels,
        drop_exact_duplicates=drop_exact_duplicates,
        drop_near_duplicates=drop_near_duplicates,
        drop_outliers=drop_outliers,
        drop_checks=drop_checks,
    )
    capped = policy.cap(decided, manifest, scores, caps)

    sets = scores["exact_duplicate_set"]
    row_of = {id_: row for row, id_ in enumerate(manifest["id"])}
    reviewed = {row_of[review.id]: review for review in human.read(reviews, manifest)}
    decisions = decided.copy()
    by = obey(decisions, manifest, reviewed, sets)

    waiting = review_queue.strata(manifest, scores, decided)
    answered = np.isin(np.arange(len(manifest)), list(reviewed))
    worth = review_queue.value(scores, decided, suggested)
    asked = review_queue.draw(manifest, sets, worth, waiting, answered, queue, seed)

    versions = {
        "round": int(audit.name.partition("@")[2] or 0),
        "dataset_version": _md5(ingest / "manifest.parquet"),
        "audit_version": _md5(audit / "issues.parquet"),
    }
    store.write_table(out / "decisions.parquet", decisions)
    actions.write(out / "actions.jsonl", manifest, scores, decided, decisions, by, versions)
    _write_queue_csv(out / "queue.csv", asked, manifest)
    hints = suggested if queue.hints else None
    _write_tasks(out / "queue.json", asked, manifest, hints, ingest)

    found = {
        stratum: {
            row: review.changes(manifest.at[row, "label"])
            for row, review in reviewed.items()
            if review.stratum == stratum
        }
        for stratum in (SUSPECT, BLIND)
    }
    summary = {
        **versions,
        "policy": {**asdict(labels), "caps": asdict(caps)},
        "counts": actions.counts(decisions),
        **actions.retention(decisions, manifest),
        "caps": capped,
        "queue": {
            "suspects": int((asked["stratum"] == SUSPECT).sum()),
            "blind": int((asked["stratum"] == BLIND).sum()),
            "suspects_open": int((waiting.suspect & ~answered).sum()),
        },
        "missed": review_queue.missed(waiting.unflagged, found[BLIND]),
        "confirmed": review_queue.confirmed(waiting.suspect, found[SUSPECT]),
    }
    store.write_json(out / "summary.json", summary)
    metrics = _metrics(decisions, summary)
    store.write_json(out / "metrics.json", metrics)
    _log.info("%(kept)d kept, %(relabelled)d relabelled, %(dropped)d dropped, %(queued)d to review", metrics)


def obey(
    decisions: pd.DataFrame, manifest: pd.DataFrame, reviewed: Mapping[int, Review], sets: pd.Series
) -> dict[int, Review]:
    """Let human decisions win, for the samples reviewed and for their exact copies.

    A copy follows if nobody reviewed it, reviewers of its set agree what the content is, and policy has
    not dropped it for being a copy.

    Args:
        decisions: of policy; changed in place.
        manifest: `id, label, split`.
        reviewed: by row.
        sets: exact sets.

    Returns:
        By row, the review that decided.
    """
    by = dict(reviewed)
    contents = {row: _content(review, manifest.at[row, "label"]) for row, review in reviewed.items()}
    said: dict[int, list[int]] = {}
    for row in sorted(reviewed):
        if sets[row] >= 0:
            said.setdefault(sets[row], []).append(row)
    for row in np.flatnonzero(sets.isin(list(said))).tolist():
        first, *others = said[sets[row]]
        follows = manifest.at[row, "split"] != "test" and decisions.at[row, "reason"] not in _COPIES
        if row not in reviewed and follows and all(contents[other] == contents[first] for other in others):
            by[row], contents[row] = reviewed[first], contents[first]
    for row, review in sorted(by.items()):
        given, (usable, content) = manifest.at[row, "label"], contents[row]
        action, label, reason = review.action, content, f"{review.reviewer}: {review.note}".strip(": ")
        if row not in reviewed:
            reason = f"exact duplicate of {review.id} ({reason})"
            if usable:
                action = "keep" if content == given else "relabel"
        if not usable:
            label = given
        decisions.loc[row, ["action", "label", "reason", "decided_by"]] = [action, label, reason, "human"]
    return by


def _content(review: Review, given: str | None) -> tuple[bool, str | None]:
    """Say whether a reviewer finds a sample usable, and of which class."""
    usable = review.action != "drop"
    return usable, (review.label if review.action == "relabel" else given) if usable else None


def _md5(path: Path) -> str:
    """Name a file's version as dvc.lock does."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _write_queue_csv(path: Path, asked: pd.DataFrame, manifest: pd.DataFrame) -> None:
    """Write the queue for a spreadsheet; nothing in it tells a blind sample from a suspect."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(QUEUE_COLUMNS)
        for row, id_, stratum in zip(asked["row"], asked["id"], asked["stratum"], strict=True):
            ticket = review_queue.ticket(id_, stratum)
            given, source = manifest.at[row, "label"], manifest.at[row, "source"]
            lines.writerow([id_, "", "", "", "", ticket, given, source])


def _write_tasks(
    path: Path,
    asked: pd.DataFrame,
    manifest: pd.DataFrame,
    hints: Suggestion | None,
    ingest: Path,
) -> None:
    texts: dict[str, str] = {}
    media_type = store.read_kind(ingest).media_type
    if media_type.startswith("text/"):
        texts = {id_: payload.decode() for id_, payload in store.payloads(ingest, list(asked["id"]))}
    tasks = []
    for row, id_, stratum in zip(asked["row"], asked["id"], asked["stratum"], strict=True):
        hint = None
        if hints is not None:
            # Where nothing better is suggested, the given label stands: a blind sample has a hint as well.
            other = hints.label[row]
            hint = Hint(other or manifest.at[row, "label"], float(hints.confidence[row]) if other else 1.0)
        ticket = review_queue.ticket(id_, stratum)
        tasks.append(label_studio.task(id_, ticket, media_type, texts.get(id_), hint))
    label_studio.write_tasks(path, tasks)


def _metrics(decisions: pd.DataFrame, summary: Mapping[str, Any]) -> dict[str, int | float]:
    action = decisions["action"].value_counts()
    missed = summary["missed"]
    metrics: dict[str, int | float | None] = {
        "kept": int(action.get("keep", 0)),
        "relabelled": int(action.get("relabel", 0)),
        "dropped": int(action.get("drop", 0)),
        "by_humans": int((decisions["decided_by"] == "human").sum()),
        "taken_back_by_caps": sum(row["n"] for row in summary["caps"]),
        "queued": summary["queue"]["suspects"] + summary["queue"]["blind"],
        "retention_min_class": summary["retention_min_class"],
        "retention_min_group": summary["retention_min_group"],
        "missed_share": missed["share"],
        "missed_share_low": missed["low"] if missed["reviewed"] else None,
        "missed_share_high": missed["high"] if missed["reviewed"] else None,
    }
    return {name: value for name, value in metrics.items() if value is not None}


if __name__ == "__main__":
    run(main)
