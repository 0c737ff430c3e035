"""What other stages found → chapters of a report, each with a status: an absent file is no silence.

A chapter that cannot be read has the status `error` and its reason, and fails the gate `chapters`; it
is never shown as an empty one.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from winnow.data import store
from winnow.data.pages import wording

OK, ERROR, SKIPPED = "ok", "error", "skipped"
_FEATURES = 40  # of a comparison shown, the most drifted first
_SLICES = 60  # shown, the worst first
_CELLS = 24
_ANNOTATORS = 100
# The keys of a report that are chapters; each round has one more, `judged_by`.
NAMES = ("annotators", "cells", "diff", "drift", "effect", "log", "map", "queue", "slices")
_WHOLE = ("status", "reason", "effect", "effect_name", "p", "q", "drifted")
_DOMAIN = ("status", "reason", "auc", "low", "high", "p")
_FEATURE = ("name", "kind", *_WHOLE)
_SHIFT = ("mean_a", "mean_b", "shift")
_SLICE = ("by", "slice", "n", "errors", "error", "low", "high", "p", "q", "excess", "worse")

Chapter = dict[str, Any]


def read(path: Path, empty: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> Chapter:
    """Read a chapter from a file.

    Args:
        path: what a stage left; it and its folder are named where it is absent.
        empty: the chapter's content where there is none.
        build: makes the content; a key that it misses makes the chapter an error.
    """
    where = f"{path.parent.name}/{path.name}"
    if not path.exists():
        stage = path.parent.name.partition("@")[0]
        return {**empty, "status": ERROR, "reason": f"{where} is absent: run the stage {stage}"}
    return _built(where, empty, lambda: build(path))


def of_summary(
    summary: Mapping[str, Any], number: int, empty: Mapping[str, Any], build: Callable[[], Mapping[str, Any]]
) -> Chapter:
    """Read a chapter out of the summary of the audit of a round."""
    return _built(f"audit@{number}/summary.json", empty, build)


def _built(where: str, empty: Mapping[str, Any], build: Callable[[], Mapping[str, Any]]) -> Chapter:
    try:
        made = {"status": OK, "reason": "", **empty, **build()}
        return {**made, "reason": wording.without_folders(made["reason"])}
    except KeyError as missing:
        return {**empty, "status": ERROR, "reason": f"{where} has no {missing}: run its stage again"}


def drift(root: Path) -> Chapter:
    """Read what differs between splits, and between this version of the data and the last."""
    return read(root / "drift" / "drift.json", {"comparisons": []}, _drift)


def profile(root: Path) -> dict[str, Any]:
    """Read the profile that a later version of the data is compared with; empty if there is none."""
    path = root / "drift" / "profile.json"
    return store.read_json(path) if path.exists() else {}


def _drift(path: Path) -> dict[str, Any]:
    return {"comparisons": [_comparison(one) for one in store.read_json(path)["comparisons"]]}


def _comparison(one: Mapping[str, Any]) -> dict[str, Any]:
    features = [
        {**_only(row, *_FEATURE), **{key: row.get(key) for key in _SHIFT}} for row in one.get("features", [])
    ]
    ran = [row for row in features if row["status"] == OK]
    features.sort(key=lambda row: (not row["drifted"], -abs(row["effect"] or 0.0), row["name"], row["kind"]))
    return {
        **_only(one, "name", "a", "b", "status", "reason", "n_a", "n_b"),
        "tested": len(ran),
        "drifted": sum(bool(row["drifted"]) for row in ran) if ran else None,
        "features": features[:_FEATURES],
        "domain": {key: (one.get("domain") or {}).get(key) for key in _DOMAIN},
        "label_shift": {key: (one.get("label_shift") or {}).get(key) for key in _WHOLE},
        "groups": {key: (one.get("groups") or {}).get(key) for key in _WHOLE},
    }


def slices(summary: Mapping[str, Any], number: int) -> Chapter:
    """Read where the judge errs more than elsewhere."""

    def build() -> dict[str, Any]:
        found = summary["slices"]
        rows = [_only(row, *_SLICE) for row in found if row.get("status", OK) == OK]
        left = [_only(row, "by", "reason") for row in found if row.get("status", OK) != OK]
        rows.sort(key=lambda row: (not row["worse"], -(row["excess"] or 0.0), row["by"], str(row["slice"])))
        if not rows:
            return {"status": SKIPPED, "reason": "no slice holds enough samples", "left_out": left}
        worse = sum(bool(row["worse"]) for row in rows)
        return {"n": len(rows), "worse": worse, "rows": rows[:_SLICES], "left_out": left}

    return of_summary(summary, number, {"n": None, "worse": None, "rows": [], "left_out": []}, build)


def cells(summary: Mapping[str, Any], number: int) -> Chapter:
    """Read the groups whose labels of a class look wrong as a whole."""

    def build() -> dict[str, Any]:
        found, reason = summary["cells"], summary["cells_reason"]
        if reason:
            return {"status": SKIPPED, "reason": reason}
        keys = ("group", "label", "n", "suggested", "probability")
        rows = [{key: row[key] for key in keys} for row in found[:_CELLS]]
        return {"n": len(found), "rows": rows}

    return of_summary(summary, number, {"n": None, "rows": []}, build)


def annotators(summary: Mapping[str, Any], number: int) -> Chapter:
    """Read how well those agree who gave the labels."""

    def build() -> dict[str, Any]:
        found = summary["annotators"]
        keys = ("annotator", "n", "agreement", "quality", "worst_class")
        if found["status"] != OK:
            return {"status": found["status"], "reason": found["reason"]}
        rows = [{key: row[key] for key in keys} for row in found["annotators"]]
        rows.sort(key=lambda row: (row["quality"] is None, row["quality"], str(row["annotator"])))
        return {"n": found["n"], "changed": found["changed"], "of": len(rows), "rows": rows[:_ANNOTATORS]}

    return of_summary(summary, number, {"n": None, "changed": None, "of": None, "rows": []}, build)


def evidence(summary: Mapping[str, Any], number: int) -> Chapter:
    """Read which evidence and which detector found what, and the noise that they estimate."""
    lists: dict[str, Any] = {"found": [], "detectors": [], "schemes": [], "pairs": []}
    empty = {**lists, "noise": {}, "graph": {}}

    def build() -> dict[str, Any]:
        return {
            "found": [_only(row, "name", "share", "flagged", "alone") for row in summary["evidence_found"]],
            "detectors": [_only(row, "name", "flagged", "alone") for row in summary["detectors"]],
            "schemes": [
                _only(row, "name", "value", "low", "high", "n") for row in summary["scheme_accuracy"]
            ],
            "pairs": [_only(row, "a", "b", "n", "share") for row in summary["pairs"][:_CELLS]],
            "noise": _only(summary["noise"], "off_diagonal", "calibrated", "posterior"),
            "graph": _only(summary["graph"], "method", "recall", "recall_sample", "k"),
        }

    return of_summary(summary, number, empty, build)


def _only(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: row[key] for key in keys}


def queue(curate: Path, examples: int) -> Chapter:
    """Read the head of the review queue.

    Which rows are a blind sample is not told: who reviews them should not know.
    """

    def build(path: Path) -> dict[str, Any]:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return {"n": len(table), "head": [{"id": id_} for id_ in table["id"].head(examples)]}

    return read(curate / "queue.csv", {"n": None, "head": []}, build)


def log(curate: Path) -> Chapter:
    """Count the changes that are written down, one line each, beside the decisions."""

    def build(path: Path) -> dict[str, Any]:
        counts: Counter[tuple[str, str]] = Counter()
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                change = json.loads(line)
                counts[change["action"], change["decided_by"]] += 1
        rows = [{"action": action, "decided_by": by, "n": n} for (action, by), n in sorted(counts.items())]
        return {"n": counts.total(), "counts": rows}

    return read(curate / "actions.jsonl", {"file": "actions.jsonl", "n": None, "counts": []}, build)
