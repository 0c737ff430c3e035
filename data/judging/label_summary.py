"""What the judgement of all labels comes to: the numbers that `audit` writes into its summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from winnow.data.intervals import wilson
from winnow.data.judging import issues, opinions
from winnow.data.judging.opinions import Opinions, Pool, Shares
from winnow.data.judging.systematic import Systematic

MOST_PAIRS = 20  # of confused or ambiguous classes


def accuracies(schemes: Mapping[str, np.ndarray], pool: Pool) -> dict[str, Any]:
    """Give the share of given labels that each scheme of folds predicts, and that of the first by itself."""
    rows, found = pool.judged, []
    for name, judged in schemes.items():
        right = int((judged[rows].argmax(1) == pool.given[rows]).sum())
        low, high = (round(end, 6) for end in wilson(right, len(rows)))
        value = round(right / len(rows), 6)
        found.append({"name": name, "value": value, "low": low, "high": high, "n": len(rows)})
    first = {"" if key == "value" else f"_{key}": found[0][key] for key in ("value", "low", "high")}
    return {"scheme_accuracy": found, **{f"oof_accuracy{end}": value for end, value in first.items()}}


def sentence(shares: Shares) -> str:
    """Say how much each evidence counted."""
    names = opinions.evidence(shares)
    parts = (f"{name} {opinions.share(shares, name):.0%}" for name in names)
    return " + ".join(parts) if len(names) > 1 else names[0]


def evidence_found(said: Opinions, shares: Shares, pool: Pool, seed: int) -> list[dict[str, Any]]:
    """Say what each evidence would have found by itself, and what none but it."""
    flags, given = {}, pool.given[pool.judged]
    for name in opinions.evidence(shares):
        judged = opinions.mix(said, shares, evidence=name)[pool.judged]
        flags[name] = issues.noise_model(judged, given, seed).wrong(judged, given) > 0.5
    return [row | {"share": round(opinions.share(shares, row["name"]), 6)} for row in alone(flags)]


def alone(flags: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Count what each finds, and what nothing else finds."""
    together = np.sum(list(flags.values()), axis=0)
    return [
        {"name": name, "flagged": int(flag.sum()), "alone": int((flag & (together == 1)).sum())}
        for name, flag in flags.items()
    ]


def classes(names: list[str], pool: Pool, table: pd.DataFrame, wrong: np.ndarray) -> list[dict[str, Any]]:
    """Give the size of each class, and how much of it looks wrong."""
    labelled = (pool.given >= 0).sum()
    rows = []
    for i, label in enumerate(names):
        here = pool.judged[pool.given[pool.judged] == i]
        n = int((pool.given == i).sum())
        rows.append(
            {
                "label": label,
                "n": n,
                "share": round(float(n / labelled), 6),
                "label_issues": int(table["is_label_issue"].to_numpy()[here].sum()),
                "estimated_noise": round(float(wrong[here].mean()), 6) if len(here) else None,
            }
        )
    return rows


def confusions(manifest: pd.DataFrame, table: pd.DataFrame, rows: np.ndarray) -> list[dict[str, Any]]:
    """Count the suspected labels by what they are and what they should be."""
    suspects = table.iloc[rows][table.iloc[rows]["is_label_issue"]]
    pairs = pd.DataFrame(
        {"given": manifest.loc[suspects.index, "label"], "suggested": suspects["suggested_label"]}
    )
    counts = pairs.value_counts().reset_index(name="n").sort_values(
        ["n", "given", "suggested"], ascending=[False, True, True]
    )  # fmt: skip
    return counts.head(MOST_PAIRS).to_dict("records")


def cells(
    found: Systematic, manifest: pd.DataFrame, groups: np.ndarray, classes: list[str]
) -> list[dict[str, Any]]:
    """Name the groups and classes whose labels look wrong as a whole."""
    names = pd.Series(manifest["group"].to_numpy(), index=groups).groupby(level=0).first()
    return [
        cell
        | {
            "group": names[cell["group"]],
            "label": classes[cell["label"]],
            "suggested": classes[cell["suggested"]],
        }
        for cell in found.cells
    ]
