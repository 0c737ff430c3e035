"""Several annotators: the label they agree on, how sure it is, and how good each of them is.

CROWDLAB weighs each annotator, and the model beside them, by how far it agrees with the others. The
annotators need no label that is known to be right.

Paper: CROWDLAB: Supervised learning to infer consensus labels and quality scores for data with multiple
annotators (Goh et al. 2022).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from winnow.data import store
from winnow.data.judging import issues

_MOST_CELLS = 100_000_000  # samples × annotators: cleanlab's table of votes has a cell for each


class Consensus(NamedTuple):
    """What annotators say of each sample, and what they are like.

    Attributes:
        label: of each sample, None where nobody voted.
        quality: probability that it is right [0–1], NaN where nobody voted.
        summary: `status`, `reason`, `n` samples with votes, `changed` labels, the votes and samples that
            were left out, and `annotators`, the least good first.
    """

    label: np.ndarray
    quality: np.ndarray
    summary: dict[str, Any]


def consensus(
    annotations: pd.DataFrame,
    ids: Sequence[str],
    given: Sequence[str | None],
    classes: Sequence[str],
    probabilities: np.ndarray,
) -> Consensus:
    """Find the consensus of the annotators.

    Args:
        annotations: one vote a row, `id, annotator, label`; the last one counts if an annotator votes
            twice for a sample.
        ids: of the samples.
        given: their labels as delivered; the summary counts the consensus labels that differ.
        classes: the names of the columns of `probabilities`.
        probabilities: out-of-fold ones `[sample, class]`; rows of zeros for samples not judged.

    Returns:
        The consensus; its summary has the status `skipped`, with a reason, where there is none to find.
    """
    label = np.full(len(ids), None, object)
    quality = np.full(len(ids), np.nan)
    if annotations.empty:
        return Consensus(label, quality, _skipped("the source names no annotators"))
    place = pd.Series(np.arange(len(ids)), index=list(ids))
    code = pd.Series(np.arange(len(classes)), index=list(classes))
    votes = annotations.drop_duplicates(["id", "annotator"], keep="last")
    votes = pd.DataFrame(
        {
            "row": votes["id"].map(place),
            "annotator": votes["annotator"].astype(str),
            "label": votes["label"].map(code),
        }
    )
    judged = np.isclose(probabilities.sum(1), 1, atol=1e-3)
    here = votes["row"].notna()
    usable = here & votes["label"].notna()
    usable[usable] = judged[votes.loc[usable, "row"].astype(int)]
    left = {"votes_left_out": int((here & ~usable).sum())}
    votes = votes[usable].astype({"row": int, "label": int})
    rows, row = np.unique(votes["row"], return_inverse=True)
    names, column = np.unique(votes["annotator"], return_inverse=True)
    reason = _too_little(votes, len(rows), len(names))
    if reason:
        return Consensus(label, quality, _skipped(reason) | left)

    table = np.full((len(rows), len(names)), np.nan)
    table[row, column] = votes["label"]
    found = issues.crowd(table, probabilities[rows])
    label[rows] = np.array(classes, object)[found.label]
    quality[rows] = found.quality
    delivered = np.array(list(given), object)[rows]
    stands = np.array([one is not None for one in delivered])
    annotators = [
        {
            "annotator": str(name),
            "n": int(stats["n"]),
            "agreement": round(float(stats["agreement"]), 6),
            "quality": store.finite(round(float(stats["quality"]), 6)),
            # Who always agrees has no worst class.
            "worst_class": classes[int(stats["worst_class"])] if stats["agreement"] < 1 else None,
        }
        for name, (_, stats) in zip(names, found.annotators.iterrows(), strict=True)
    ]
    annotators.sort(key=lambda row: (row["quality"] is None, row["quality"], row["annotator"]))
    summary = {
        "status": "ok",
        "reason": "",
        "n": len(rows),
        "changed": int((label[rows] != delivered)[stands].sum()),
        "annotators": annotators,
        **left,
    }
    return Consensus(label, quality, summary)


def _skipped(reason: str) -> dict[str, Any]:
    return {
        "status": "skipped", "reason": reason, "n": None, "changed": None, "annotators": [],
        "votes_left_out": None,
    }  # fmt: skip


def _too_little(votes: pd.DataFrame, rows: int, annotators: int) -> str:
    """Say why no consensus can be found; empty if it can."""
    if votes.empty:
        return "no annotator's label is one of the classes of a sample that was judged"
    if votes["row"].is_unique:
        return "no sample has the labels of two annotators"
    if not votes.duplicated(["row", "label"]).any():
        return "no two annotators agree on any sample: do they name the classes alike?"
    if rows * annotators > _MOST_CELLS:
        return f"{annotators:,} annotators of {rows:,} samples are too many to weigh at once"
    return ""
