"""What was done to the data: a log of every change, and what is left of classes and groups."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from winnow.data import store
from winnow.data.deciding.reviews import Review
from winnow.data.intervals import wilson

_FLAGS = ("margin", "filter", "neighbours", "group")
_MOST_GROUPS = 50  # in a summary, those that lost most
_SMALL_GROUP = 10  # samples; of fewer, the share that is left says nothing


def write(
    path: Path,
    manifest: pd.DataFrame,
    scores: pd.DataFrame,
    decided: pd.DataFrame,
    decisions: pd.DataFrame,
    by: Mapping[int, Review],
    versions: Mapping[str, Any],
) -> None:
    """Write one line of JSON for each sample that anybody decided about, in the manifest's order.

    What policy wanted and a cap took back is a `keep`, and says so; what a human overruled is named.

    Args:
        path: receives the lines.
        manifest: `id, source, label`.
        scores: the audit's issues.
        decided: by policy, caps included.
        decisions: the final ones.
        by: the review that decided a row.
        versions: of data, audit and round; stand in every line.
    """
    rows = np.flatnonzero(decisions["decided_by"] != "none")
    flags = scores[[f"by_{name}" for name in _FLAGS]].to_numpy(bool)[rows]
    given, final, ruled = (
        table.iloc[rows].to_dict("records") for table in (manifest[["source", "label"]], decisions, decided)
    )
    score = scores["label_quality"].to_numpy(float)[rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        for i, row in enumerate(rows.tolist()):
            review, old, now = by.get(row), ruled[i], final[i]
            overruled = review is not None and old["decided_by"] != "none"
            line = {
                "id": now["id"],
                "source": given[i]["source"],
                "action": now["action"],
                "old_label": given[i]["label"],
                "new_label": None if now["action"] == "drop" else now["label"],
                "decided_by": now["decided_by"],
                "reviewer": review.reviewer if review else None,
                "reason": now["reason"],
                "overruled": f"{old['action']}: {old['reason']}" if overruled else None,
                "score": store.finite(score[i]),
                "detectors": [name for name, found in zip(_FLAGS, flags[i], strict=True) if found],
                **versions,
            }
            file.write(json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def counts(decisions: pd.DataFrame) -> list[dict[str, Any]]:
    """Count what policy did, by action and reason, and what humans did, by action."""
    reason = decisions["reason"].where(decisions["decided_by"] == "policy", "")
    table = decisions.assign(reason=reason).groupby(["action", "decided_by", "reason"]).size()
    return table.reset_index(name="n").to_dict("records")


def retention(decisions: pd.DataFrame, manifest: pd.DataFrame) -> dict[str, Any]:
    """Say what is left of each class and group in train and validation.

    Returns:
        `classes`, `groups` (those that surely lost most first, the worst alone if there are many),
        their number, the smallest share left of any class, and of any group of ten samples or more
        (None without such groups). `retention` is the share not dropped, `same_label` the share that
        still bears its label, each among the samples as delivered.
    """
    free = manifest["split"] != "test"
    kept = decisions["action"] != "drop"
    same = kept & (decisions["label"] == manifest["label"])
    came = free & (decisions["action"] == "relabel") & ~same
    arrived = decisions.loc[came, "label"].value_counts()

    def table(column: str) -> list[dict[str, Any]]:
        known = free & manifest[column].notna()
        parts = pd.DataFrame({"n": 1, "kept": kept[known], "same": same[known]})
        rows = []
        for name, n, left, alike in parts.groupby(manifest.loc[known, column]).sum().itertuples():
            low, high = wilson(int(left), int(n))
            row = {
                "n": int(n),
                "dropped": int(n - left),
                "relabelled": int(left - alike),
                "retention": round(left / n, 6),
                "low": round(low, 6),
                "high": round(high, 6),
                "same_label": round(alike / n, 6),
            }
            rows.append({"name": name, **row})
        return rows

    classes, groups = table("label"), table("group")
    for row in classes:
        row["arrived"] = int(arrived.get(row["name"], 0))
    groups.sort(key=lambda row: (row["high"], row["name"]))
    large = [row["retention"] for row in groups if row["n"] >= _SMALL_GROUP]
    return {
        "classes": classes,
        "groups": groups[:_MOST_GROUPS],
        "groups_in_all": len(groups),
        "retention_min_class": min((row["retention"] for row in classes), default=None),
        "retention_min_group": min(large, default=None),
    }
