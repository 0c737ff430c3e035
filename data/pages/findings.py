"""Tables of a round → plain findings: counts, scores against planted truth, samples to show.

All is JSON: what a page shows is decided here, so that it can be checked and rendered again.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from winnow.data import store
from winnow.data.intervals import wilson
from winnow.data.pages import wording

_BINS = 36  # of a histogram
_CONFUSIONS = 12  # pairs of classes shown
_MEMBERS = 6  # of a duplicate set shown
_LABEL_SCORES = (
    *("flagged", "by_split", "planted", "scored", "hits"),
    *("precision", "recall", "f1", "suggestion"),
)
_RULE = re.compile(r"(\w+) ([<>]) (\S+)")  # as the audit writes them, joined by " or "


def fingerprint(table: pd.DataFrame) -> str:
    """Name a table of samples by a hash of its ids and labels."""
    lines = (f"{row.id}\t{row.label}\n" for row in table[["id", "label"]].itertuples())
    return hashlib.blake2b("".join(lines).encode(), digest_size=8).hexdigest()


def share(hits: int, trials: int) -> dict[str, float] | None:
    """Give a share [0–1] with its 95 % interval; None if nothing was tried."""
    if not trials:
        return None
    low, high = wilson(hits, trials)
    return {"value": hits / trials, "low": low, "high": high}


def sample(row: Any) -> dict[str, Any]:
    """Give what a page says of a sample."""
    return {
        "id": row.id,
        "label": row.given,
        "split": row.split,
        "source": wording.file_name(str(row.source)),
    }


def join(
    manifest: pd.DataFrame, truth: pd.DataFrame, issues: pd.DataFrame, decisions: pd.DataFrame
) -> pd.DataFrame:
    """Lay what is known of each sample side by side; the delivered label is `given`.

    Raises:
        ValueError: if issues or decisions are about other samples than the manifest's.
    """
    for name, other in (("issues", issues), ("decisions", decisions)):
        if sorted(other["id"]) != sorted(manifest["id"]):
            raise ValueError(f"the {name} are about other samples than the manifest")
    table = manifest.rename(columns={"label": "given"})
    table = table.merge(truth.rename(columns={"label": "true_label"}), on="id", how="left")
    fresh = [name for name in issues if name == "id" or name not in table]
    table = table.merge(issues[fresh], on="id")
    decided = decisions[["id", "action", "label", "reason", "decided_by"]]
    return table.merge(decided.rename(columns={"label": "decided"}), on="id")


def planted(table: pd.DataFrame) -> pd.Series:
    """Mark the samples whose delivered label is known to be wrong."""
    return table["given"].notna() & table["true_label"].notna() & (table["given"] != table["true_label"])


def labels(table: pd.DataFrame) -> dict[str, Any]:
    """Score the label issues, against the planted truth where there is one.

    Labels are planted wrong in train and validation alone, so scores are of those splits.
    """
    judged = table[table["given"].notna() & table["label_quality"].notna()]
    found: dict[str, Any] = dict.fromkeys(_LABEL_SCORES)
    found["n"] = len(judged)
    if judged.empty:
        return found
    found["flagged"] = int(judged["is_label_issue"].sum())
    found["by_split"] = {
        split: int((judged["is_label_issue"] & (judged["split"] == split)).sum()) for split in store.SPLITS
    }
    open_to = judged[judged["split"] != "test"]
    wrong = planted(open_to)
    if not wrong.any():
        return found
    flagged = open_to["is_label_issue"].astype(bool)
    hits = int((wrong & flagged).sum())
    found |= {"planted": int(wrong.sum()), "hits": hits, "scored": int(flagged.sum())}
    found["precision"] = share(hits, int(flagged.sum()))
    found["recall"] = share(hits, int(wrong.sum()))
    found["f1"] = 2 * hits / int(flagged.sum() + wrong.sum())
    right = open_to[wrong & flagged]
    found["suggestion"] = share(int((right["suggested_label"] == right["true_label"]).sum()), len(right))
    return found


def label_examples(table: pd.DataFrame, examples: int) -> list[dict[str, Any]]:
    """Give the flagged samples of the lowest label quality."""
    flagged = table[table["is_label_issue"].astype(bool)]
    worst = flagged.sort_values(["label_quality", "id"], kind="stable").head(examples)
    known = bool(planted(table).any())
    return [
        {
            **sample(row),
            "suggested": row.suggested_label,
            "quality": store.finite(row.label_quality),
            "detectors": int(row.label_detectors),
            "action": row.action,
            "decided": row.decided,
            "decided_by": row.decided_by,
            "reason": wording.without_folders(str(row.reason or "")),
            "true_label": row.true_label if known and row.split != "test" else None,
        }
        for row in worst.itertuples()
    ]


def named(table: pd.DataFrame, shown: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give samples that are known by id as a page says them, in their order.

    Raises:
        KeyError: if there is no such sample.
    """
    wanted = [one["id"] for one in shown]
    rows = {row.id: row for row in table[table["id"].isin(wanted)].itertuples()}
    return [sample(rows[id_]) for id_ in wanted]


def wrong_left(table: pd.DataFrame, label: str, kept: pd.Series) -> dict[str, Any]:
    """Count the wrong labels among kept train and validation samples."""
    rows = table[kept & (table["split"] != "test") & table[label].notna() & table["true_label"].notna()]
    wrong = int((rows[label] != rows["true_label"]).sum())
    return {"wrong": wrong, "labelled": len(rows), "share": share(wrong, len(rows))}


def outliers(table: pd.DataFrame, examples: int) -> dict[str, Any]:
    """Give the samples that lie farthest from all others."""
    flagged = table[table["is_outlier"].astype(bool)].sort_values(["outlier_score", "id"])
    return {
        "n": len(flagged),
        "examples": [
            {**sample(row), "score": store.finite(row.outlier_score)}
            for row in flagged.head(examples).itertuples()
        ],
    }


def duplicates(table: pd.DataFrame, column: str, examples: int) -> dict[str, Any]:
    """Give sets of duplicates, those first that disagree in their labels or cross splits."""
    members = table[table[column] >= 0]
    sets = members.groupby(column).agg(
        size=("id", "size"),
        labels=("given", lambda given: given.dropna().nunique()),
        splits=("split", "nunique"),
        first=("id", "min"),
    )
    sets["trouble"] = (sets["labels"] > 1).astype(int) + (sets["splits"] > 1)
    order = sets.sort_values(["trouble", "size", "first"], ascending=[False, False, True])
    shown, left = [], examples
    for number, row in order.iterrows():
        if left < 2:
            break
        group = _mixed(members[members[column] == number]).head(min(_MEMBERS, left))
        left -= len(group)
        shown.append(
            {
                "size": int(row["size"]),
                "labels_disagree": bool(row["labels"] > 1),
                "crosses_splits": bool(row["splits"] > 1),
                "members": [sample(member) for member in group.itertuples()],
            }
        )
    return {"sets": len(sets), "samples": len(members), "shown": shown}


def _mixed(group: pd.DataFrame) -> pd.DataFrame:
    """Order a set so that its first members show what it disagrees about."""
    group = group.sort_values("id")
    turn = group.groupby(["given", "split"], dropna=False).cumcount()
    return group.assign(turn=turn).sort_values(["turn", "id"])


def checks(found: Iterable[Mapping[str, Any]], table: pd.DataFrame, examples: int) -> list[dict[str, Any]]:
    """Give every check with its result and, where it has a rule on a measure, a histogram."""
    given = []
    for check in found:
        status = str(check.get("status", "error"))
        ran = status == "ok"
        row = {
            "name": str(check["name"]),
            "status": status,
            "reason": wording.without_folders(str(check.get("reason") or "")),
            "rule": str(check.get("rule") or ""),
            **{key: check.get(key) if ran else None for key in ("n_checked", "n_flagged")},
            "rate": check.get("rate") if ran else None,
            "low": check.get("low") if ran else None,
            "high": check.get("high") if ran else None,
        }
        given.append({**row, **_measured(row, table, examples)})
    return given


def _bounds(rule: str) -> tuple[str, dict[str, float]]:
    """Read a rule such as `seconds < 0.2 or seconds > 10`: the measure and its bounds."""
    found = _RULE.findall(rule)
    try:
        bounds = {sign: float(bound) for _, sign, bound in found}
    except ValueError:
        return "", {}
    return (found[0][0], bounds) if found else ("", {})


def _measured(check: Mapping[str, Any], table: pd.DataFrame, examples: int) -> dict[str, Any]:
    """Show the measure behind a check: a histogram, and the samples farthest beyond the bounds."""
    (measure, bounds), column = _bounds(check["rule"]), f"is_{check['name']}"
    nothing: dict[str, Any] = {"histogram": None, "examples": []}
    if check["status"] != "ok" or measure not in table or column not in table:
        return nothing
    values = table[measure].astype(float)
    finite = np.isfinite(values)
    if not finite.any():
        return nothing
    flag = table[column].astype(bool)
    edges = np.histogram_bin_edges([*values[finite], *bounds.values()], _BINS)
    far = np.fmax(bounds.get("<", -np.inf) - values, values - bounds.get(">", np.inf))
    worst = table.assign(far=far)[flag].sort_values(["far", "id"], ascending=[False, True])
    return {
        "histogram": {
            "measure": measure,
            "thresholds": sorted(bounds.values()),
            "edges": edges.tolist(),
            "rest": np.histogram(values[finite & ~flag], edges)[0].tolist(),
            "flagged": np.histogram(values[finite & flag], edges)[0].tolist(),
        },
        "examples": [
            {**sample(row), "value": store.finite(value)}
            for row, value in zip(
                worst.head(examples).itertuples(), worst[measure].head(examples), strict=True
            )
        ],
    }


def classes(table: pd.DataFrame, found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give the classes with their estimated noise, and how much of each the curation left."""
    open_to = table[(table["split"] != "test") & table["given"].notna()]
    given = open_to["given"].value_counts()
    kept = open_to.loc[open_to["action"] != "drop", "given"].value_counts()
    rows = []
    for entry in sorted(found, key=lambda entry: str(entry["label"])):
        label = entry["label"]
        before, after = int(given.get(label, 0)), int(kept.get(label, 0))
        rows.append(
            {
                "label": label,
                **{key: entry.get(key) for key in ("n", "share", "label_issues")},
                "noise": entry.get("estimated_noise"),
                "given": before,
                "kept": after,
                "retention": after / before if before else None,
            }
        )
    return rows


def confusions(found: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give the pairs of classes that are mixed up most."""
    ranked = sorted(found, key=lambda pair: (-pair["n"], str(pair["given"]), str(pair["suggested"])))
    return [{key: pair[key] for key in ("given", "suggested", "n")} for pair in ranked[:_CONFUSIONS]]


def actions(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Count what was decided, by whom and why."""
    reasons = table["reason"].map(lambda reason: wording.without_folders(str(reason or "")))
    counts = table.assign(reason=reasons).groupby(["action", "decided_by", "reason"]).size()
    rows = [
        {"action": action, "decided_by": by, "reason": reason, "n": int(n)}
        for (action, by, reason), n in counts.items()
    ]
    order = {"drop": 0, "relabel": 1, "keep": 2}
    return sorted(rows, key=lambda row: (order[row["action"]], -row["n"], row["reason"]))


def rejects(table: pd.DataFrame, examples: int) -> dict[str, Any]:
    """Give the reasons for rejecting inputs, with the sources of some."""
    rows = table.assign(
        reason=table["reason"].map(lambda reason: wording.without_folders(str(reason))),
        source=table["source"].map(lambda source: wording.file_name(str(source))),
    )
    found = [
        {"reason": reason, "n": len(group), "sources": sorted(group["source"])[:examples]}
        for reason, group in rows.groupby("reason")
    ]
    found.sort(key=lambda row: (-row["n"], row["reason"]))
    return {"n": len(table), "reasons": found[:examples], "kinds": len(found)}
