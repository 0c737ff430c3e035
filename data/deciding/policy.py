"""What is done about a sample without a human: which evidence is enough, and how much may be taken."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from winnow.data.stage import BadInput

LABEL_ISSUE = "label issue"
CONFLICT = "exact duplicates with different labels"
EXACT = "exact duplicate of a kept sample"
NEAR = "near duplicate of a kept sample"
OUTLIER = "outlier"
# What goes first where a cap lets only a part go: copies and what was measured are facts, suspicions follow.
_LATE = {LABEL_ISSUE: 2, OUTLIER: 3}


@dataclass(frozen=True, kw_only=True)
class LabelPolicy:
    """What is done about a suspected label without a human.

    Attributes:
        action: `drop` the sample; `relabel` it to the suggestion; `hybrid`: relabel where the
            suggestion is sure, else drop, but for labels that look wrong with a whole group, which
            wait for a human: dropping these would take all that is known of the class in that group;
            `review` leaves all to humans.
        min_detectors: how many of the independent voices (see `voices`) have to agree.
        min_probability: of being wrong, below which no label is touched [0–1].
        sure: probability of the suggestion from which `hybrid` relabels [0–1].
    """

    action: Literal["drop", "relabel", "hybrid", "review"]
    min_detectors: int
    min_probability: float
    sure: float


@dataclass(frozen=True, kw_only=True)
class Caps:
    """How much policy may take; the most suspicious goes, the rest is kept.

    Attributes:
        share_of_class: of a class, that may be dropped [0–1]. Copies of kept samples do not count,
            since nothing is lost with them.
        share_of_group: the same of a group; of a small group at least one, unless the share is 0.
        min_kept: samples of a class that keep their label, whatever the shares allow; a smaller
            class is left as it is.
    """

    share_of_class: float
    share_of_group: float
    min_kept: int


class Suggestion(NamedTuple):
    """A better label for each sample.

    Attributes:
        label: None where there is none other than the given one.
        confidence: its probability [0–1]; 0 where there is none.
    """

    label: pd.Series
    confidence: np.ndarray


def start(manifest: pd.DataFrame) -> pd.DataFrame:
    """Give the decisions before anybody decides: all is kept as delivered."""
    decisions = pd.DataFrame({"id": manifest["id"], "action": "keep", "label": manifest["label"]})
    decisions["reason"], decisions["decided_by"] = "", "none"
    return decisions


def voices(manifest: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Say who finds each label wrong, of those that do not repeat each other.

    The margin and the filter read the same probabilities, so the two are one voice, `model`;
    `neighbours` look at the vectors alone, `group` at a group's labels of a class as a whole,
    `annotators` are the people whose consensus is another label.
    """
    consensus, given = scores["consensus_label"], manifest["label"]
    return pd.DataFrame(
        {
            "model": scores["by_margin"] | scores["by_filter"],
            "neighbours": scores["by_neighbours"],
            "group": scores["by_group"],
            "annotators": consensus.notna() & given.notna() & (consensus != given),
        }
    ).astype(bool)


def suggestions(
    manifest: pd.DataFrame, scores: pd.DataFrame, cells: Sequence[Mapping[str, Any]]
) -> Suggestion:
    """Choose a better label for each sample, and say how sure that is.

    A model that learned a group's mistake suggests it. Where a group's labels of a class look wrong as
    a whole, the label suggested for all of them stands in for a row's own suggestion, unless the row
    suggests a third label.

    Args:
        manifest: `label, group`.
        scores: the audit's issues.
        cells: the audit's `{group, label, suggested, probability}`.
    """
    given = manifest["label"]
    label = scores["suggested_label"].astype(object).copy()
    confidence = scores["suggested_confidence"].to_numpy(float, na_value=np.nan, copy=True)
    whole = {(cell["group"], cell["label"]): cell for cell in cells}
    for row in np.flatnonzero(scores["by_group"]):
        cell = whole.get((manifest.at[row, "group"], given[row]))
        if cell is None or label[row] not in (given[row], cell["suggested"], None):
            continue
        own = confidence[row] if label[row] == cell["suggested"] else 0.0
        label[row], confidence[row] = cell["suggested"], np.nanmax([own, cell["probability"]])
    other = (label.notna() & given.notna() & (label != given)).to_numpy()
    return Suggestion(label.where(other, None), np.where(other, np.nan_to_num(confidence), 0.0))


def decide(
    manifest: pd.DataFrame,
    scores: pd.DataFrame,
    suggested: Suggestion,
    *,
    labels: LabelPolicy,
    drop_exact_duplicates: bool,
    drop_near_duplicates: bool,
    drop_outliers: bool,
    drop_checks: Sequence[str],
) -> pd.DataFrame:
    """Decide by policy alone; the caps come after.

    Raises:
        BadInput: if a check does not exist.
    """
    decisions = start(manifest)
    free = (manifest["split"] != "test").to_numpy()

    def drop(rows: np.ndarray | pd.Series, reason: str) -> None:
        rows = np.asarray(rows) & free & (decisions["action"] == "keep").to_numpy()
        decisions.loc[rows, ["action", "reason", "decided_by"]] = ["drop", reason, "policy"]

    if drop_exact_duplicates:
        surplus, conflicting = _surplus(manifest, scores["exact_duplicate_set"])
        drop(conflicting, CONFLICT)
        drop(surplus, EXACT)
    if drop_near_duplicates:
        # What is gone already makes nothing else surplus; of differing labels the most credible stays.
        left = scores["near_duplicate_set"].where(decisions["action"] == "keep", -1)
        drop(_surplus(manifest, left, -scores["label_quality"])[0], NEAR)
    for name in drop_checks:
        if f"is_{name}" not in scores:
            known = sorted(c.removeprefix("is_") for c in scores if c.startswith("is_"))
            raise BadInput(f"params.yaml: curate.drop_checks: no check {name!r}; there are {known}")
        drop(scores[f"is_{name}"], name)
    if drop_outliers:
        drop(scores["is_outlier"], OUTLIER)

    if labels.action != "review":
        heard = voices(manifest, scores)
        agreed = (heard.sum(axis=1) >= labels.min_detectors) & manifest["label"].notna()
        likely = 1 - scores["label_quality"] >= labels.min_probability
        wrong = (agreed & likely & free & (decisions["action"] == "keep")).to_numpy()
        other = suggested.label.notna().to_numpy()
        sure = other & (suggested.confidence >= labels.sure)
        relabel = wrong & {"drop": np.zeros_like(sure), "relabel": other, "hybrid": sure}[labels.action]
        decisions.loc[relabel, "action"] = "relabel"
        decisions.loc[relabel, ["reason", "decided_by"]] = [LABEL_ISSUE, "policy"]
        decisions.loc[relabel, "label"] = suggested.label[relabel]
        if labels.action == "hybrid":
            wrong = wrong & ~heard["group"].to_numpy()
        if labels.action != "relabel":
            drop(wrong, LABEL_ISSUE)
    return decisions


def _surplus(
    manifest: pd.DataFrame, sets: pd.Series, doubt: pd.Series | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the members of sets that are one too many, and the sets whose labels differ."""
    member = (sets >= 0).to_numpy()
    # A twin in the test split makes the others surplus: the test split is the one that stays. Else
    # one that has a label does, and then the one that is doubted least.
    late = pd.DataFrame({"free": manifest["split"] != "test", "blank": manifest["label"].isna()})
    late["doubt"] = 0.0 if doubt is None else doubt
    first = late.sort_values(["free", "blank", "doubt"], kind="stable")
    kept = ~sets[first.index].duplicated().reindex(manifest.index).to_numpy()
    given = manifest["label"].where(manifest["label"].notna())
    conflicting = member & (given.groupby(sets).transform("nunique") > 1).to_numpy()
    return member & ~kept, conflicting


def cap(
    decisions: pd.DataFrame, manifest: pd.DataFrame, scores: pd.DataFrame, caps: Caps
) -> list[dict[str, Any]]:
    """Take back what policy takes of a class or a group beyond its share, the least suspicious first.

    Args:
        decisions: of policy; what is taken back becomes a `keep` that says why.
        manifest: `label, split, group`.
        scores: the audit's issues.
        caps: the shares.

    Returns:
        What was taken back: `{by, name, n}`, by `class`, `group` or `min_kept`.
    """
    free = manifest["split"] != "test"
    sizes = manifest[free].groupby("label").size()
    drops = {label: int(caps.share_of_class * size) for label, size in sizes.items()}
    changes = {label: max(0, size - caps.min_kept) for label, size in sizes.items()}
    least = 1 if caps.share_of_group > 0 else 0
    members = manifest[free].groupby("group").size()
    group_drops = {group: max(least, int(caps.share_of_group * size)) for group, size in members.items()}

    changed = decisions[decisions["action"] != "keep"]
    rank = changed["reason"].map(_LATE).fillna(1).where(~changed["reason"].isin([EXACT, NEAR]), 0)
    score = scores["label_quality"].where(decisions["reason"] != OUTLIER, scores["outlier_score"])
    order = pd.DataFrame({"rank": rank, "score": score[changed.index]})
    order = order.sort_values(["rank", "score"], kind="stable")
    lossy = ((changed["action"] == "drop") & (rank > 0))[order.index]
    of = manifest.loc[order.index]
    back: dict[tuple[str, Any], list[int]] = defaultdict(list)
    for row, label, group, lost in zip(order.index, of["label"], of["group"], lossy, strict=True):
        if label is not None and changes[label] == 0:
            back["min_kept", label].append(row)
        elif lost and label is not None and drops[label] == 0:
            back["class", label].append(row)
        elif lost and group is not None and group_drops[group] == 0:
            back["group", group].append(row)
        else:
            if label is not None:
                changes[label] -= 1
                drops[label] -= lost
            if group is not None:
                group_drops[group] -= lost
    said = {
        "class": "the class has lost its share",
        "group": "the group has lost its share",
        "min_kept": f"the class would fall below {caps.min_kept}",
    }
    for (by, _), rows in back.items():
        why = decisions.loc[rows, "reason"]
        decisions.loc[rows, "action"] = "keep"
        decisions.loc[rows, "label"] = manifest.loc[rows, "label"]
        decisions.loc[rows, "reason"] = f"kept: {said[by]} (" + why + ")"
    return [{"by": by, "name": name, "n": len(back[by, name])} for by, name in sorted(back)]
