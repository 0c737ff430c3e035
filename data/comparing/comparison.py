"""The comparison of two datasets: many tests in one form, and the verdict over all of them.

What could not be tested says why, and its verdict is empty: it is not the same as no drift.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from winnow.data import store
from winnow.data.comparing.distributions import Distance
from winnow.data.intervals import false_discovery_rates

_EFFECTS = {True: "Kolmogorov–Smirnov D", False: "total variation"}
_SHOWN = 10  # classes of a label shift
_SINGLE = ("label_shift", "groups", "domain")  # tests that stand beside the features


def comparison(name: str, a: str, b: str, n_a: int, n_b: int, reason: str = "") -> dict[str, Any]:
    """Begin a comparison; with a reason why there is nothing to compare, it is skipped."""
    return {
        "name": name,
        "a": a,
        "b": b,
        "status": "skipped" if reason else "ok",
        "reason": reason,
        "unit": None,
        "n_a": n_a,
        "n_b": n_b,
        "features": [],
        **{key: skipped(key, key, reason or "not compared") for key in _SINGLE},
    }


def skipped(name: str, kind: str, reason: str) -> dict[str, Any]:
    """Say why something was not compared."""
    row: dict[str, Any] = {"name": name, "kind": kind, "status": "skipped", "reason": reason}
    return row | dict.fromkeys(("effect", "effect_name", "chance", "p", "q", "drifted"))


def tested(name: str, kind: str, found: Distance, *, ordered: bool) -> dict[str, Any]:
    """Say how far two distributions are apart; the verdict is given over all tests together."""
    return skipped(name, kind, "") | {
        "status": "ok",
        "effect": round(found.effect, 6),
        "effect_name": _EFFECTS[ordered],
        "chance": round(found.chance, 6),
        "p": round(found.p, 6),
    }


def numbers(means: tuple[float, float], spreads: tuple[float, float]) -> dict[str, float | None]:
    """Give the means of both sides, and their difference in standard deviations."""
    spread = math.sqrt((spreads[0] ** 2 + spreads[1] ** 2) / 2)
    shift = (means[1] - means[0]) / spread if spread else math.nan
    values = {"mean_a": means[0], "mean_b": means[1], "shift": shift}
    return {name: store.finite(float(f"{value:.6g}")) for name, value in values.items()}


def names(known: Sequence[str], a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Give the classes whose shares differ most, and those that stand on one side alone."""
    share_a, share_b = a / max(a.sum(), 1), b / max(b.sum(), 1)
    largest = sorted(range(len(known)), key=lambda i: (-abs(share_a[i] - share_b[i]), known[i]))[:_SHOWN]
    return {
        "classes": [
            {"label": known[i], "a": round(float(share_a[i]), 6), "b": round(float(share_b[i]), 6)}
            for i in largest
        ],
        "only_a": [known[i] for i in np.flatnonzero((a > 0) & (b == 0)).tolist()][:_SHOWN],
        "only_b": [known[i] for i in np.flatnonzero((a == 0) & (b > 0)).tolist()][:_SHOWN],
    }


def shared(a: pd.Series, b: pd.Series) -> dict[str, int]:
    """Count the groups of two sides, and those that both have."""
    sides = set(a.dropna()), set(b.dropna())
    return {"n_a": len(sides[0]), "n_b": len(sides[1]), "shared": len(sides[0] & sides[1])}


def judge(compared: dict[str, Any], *, alpha: float, min_effect: float, min_auc: float) -> None:
    """Give every test its q over all tests of the comparison, and its verdict.

    Args:
        compared: completed in place.
        alpha: q below which a difference is sure.
        min_effect: of drift, beyond what chance gives.
        min_auc: of drift seen by the domain classifier, where chance gives 0.5.
    """
    rows = [*compared["features"], *(compared[key] for key in _SINGLE)]
    made = [row for row in rows if row["p"] is not None]
    for row, q in zip(made, false_discovery_rates([row["p"] for row in made]), strict=True):
        least = min_auc - 0.5 if row["kind"] == "domain" else min_effect
        row["q"] = round(float(q), 6)
        row["drifted"] = bool(q < alpha and row["effect"] - row["chance"] >= least)
    compared["n_tests"] = len(made)
    compared["n_drifted"] = sum(row["drifted"] for row in made) if made else None


def told(compared: dict[str, Any]) -> str:
    """Say in one line how a comparison went."""
    title = f"{compared['a']} and {compared['b']}"
    if compared["n_drifted"] is None:
        return f"{title}: skipped: {compared['reason']}"
    rows = [*compared["features"], *(compared[key] for key in _SINGLE)]
    drifted = [f"{row['name']} ({row['effect_name']} {row['effect']:.2f})" for row in rows if row["drifted"]]
    return f"{title}: {len(drifted)} of {compared['n_tests']} tests differ {', '.join(drifted)}".rstrip()
