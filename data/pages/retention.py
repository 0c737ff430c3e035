"""What curation left of each class and each group, and which classes are taken for which."""

from typing import Any

import numpy as np
import pandas as pd

_CLASSES = 24  # in a confusion table, those first that are mixed up most
_GROUPS = 60  # shown, those first of which least is left


def groups(table: pd.DataFrame, fewest: int) -> dict[str, Any]:
    """Give what is left of each group in train and validation.

    Args:
        table: all samples of a round.
        fewest: samples of a group below which a share says nothing.
    """
    free = table[(table["split"] != "test") & table["group"].notna()]
    given = free["group"].value_counts()
    kept = free.loc[free["action"] != "drop", "group"].value_counts()
    flagged = free.loc[free["is_label_issue"].astype(bool), "group"].value_counts()
    rows = [
        {
            "group": str(group),
            "given": int(n),
            "kept": int(kept.get(group, 0)),
            "label_issues": int(flagged.get(group, 0)),
            "retention": int(kept.get(group, 0)) / int(n),
        }
        for group, n in given.items()
        if n >= fewest
    ]
    rows.sort(key=lambda row: (row["retention"], row["group"]))
    return {"n": len(given), "judged": len(rows), "fewest": fewest, "rows": rows[:_GROUPS]}


def confusion(table: pd.DataFrame) -> dict[str, Any]:
    """Count suspected labels by given and suggested class, for the classes that are mixed up most."""
    judged = table[table["given"].notna() & table["label_quality"].notna()]
    suspected = judged[judged["is_label_issue"].astype(bool) & judged["suggested_label"].notna()]
    suspected = suspected[suspected["given"] != suspected["suggested_label"]]
    involved = pd.concat([suspected["given"], suspected["suggested_label"]]).value_counts()
    ranked = sorted(involved.items(), key=lambda pair: (-pair[1], str(pair[0])))
    names = sorted((str(name) for name, _ in ranked[:_CLASSES]), key=natural)
    counts = pd.crosstab(suspected["given"], suspected["suggested_label"])
    counts = counts.reindex(index=names, columns=names, fill_value=0)
    right = judged["given"].value_counts()
    return {
        "classes": len(involved),
        "names": names,
        "counts": counts.to_numpy().astype(int).tolist(),
        "given": [int(right.get(name, 0)) for name in names],
        "left_out": int(len(suspected) - np.sum(counts.to_numpy())),
    }


def natural(text: str) -> tuple[int, float, str]:
    """Order numbers by their value and before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
