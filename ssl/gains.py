"""What one arm gains over another, with intervals over repetitions and test samples at once.

Arms are paired in both: all of them have the same seeds and the same test samples.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import t

from winnow.data.batches import UNLABELLED
from winnow.data.intervals import verdict, wilson
from winnow.ssl.arms import DELIVERED, ORACLE, ROUND, Arm, Plan

LEAST_GROUPS = 5  # fewer say nothing about other groups: each sample counts then
_NOTHING = 1e-20  # variance below which it is rounding


class Units(NamedTuple):
    """What counts as one test sample in an interval.

    Attributes:
        kind: `group` (its samples are alike, so that they are not as many facts) or `sample`.
        number: of each sample's unit.
    """

    kind: str
    number: Int[np.ndarray, " sample"]


def units(groups: pd.Series) -> Units:
    """Count groups where there are enough, else samples; a sample without a group is one of its own."""
    if groups.nunique() < LEAST_GROUPS:
        return Units("sample", np.arange(len(groups)))
    own = pd.Series([("sample", place) for place in range(len(groups))], index=groups.index)
    named = groups.map(lambda group: ("group", group)).where(groups.notna(), own)
    return Units("group", pd.factorize(named)[0])


class Spread(NamedTuple):
    """How far the arms' accuracies would be off with other seeds, and with other test samples.

    Attributes:
        by_seeds: covariances of the arms' mean accuracies that come from the seeds.
        by_units: those that come from the test samples.
        seeds: how many there are.
        units: how many test units there are.
    """

    by_seeds: Float[np.ndarray, "arm arm"]
    by_units: Float[np.ndarray, "arm arm"]
    seeds: int
    units: int

    def of(self, contrast: Float[np.ndarray, " arm"]) -> tuple[float, float]:
        """Give the variance of a weighted sum of accuracies, and how many standard errors 95 % take.

        Paper: An approximate distribution of estimates of variance components (Satterthwaite 1946).
        """
        one, other = (float(contrast @ part @ contrast) for part in (self.by_seeds, self.by_units))
        variance = max(one + other, 0.0)
        if variance < _NOTHING:
            return 0.0, 0.0
        degrees = variance**2 / (one**2 / (self.seeds - 1) + other**2 / (self.units - 1))
        return variance, float(t.ppf(0.975, degrees))


def spread(correct: Bool[np.ndarray, "arm seed sample"], unit: Int[np.ndarray, " sample"]) -> Spread:
    """Separate what seeds and what test samples contribute to the variance of the arms' accuracies.

    Every seed meets every test sample, so that the two are crossed; a repetition is no new sample, and a
    sample no repetition.

    Args:
        correct: whether each arm got each test sample right with each seed.
        unit: number of what counts as one test sample.

    Raises:
        ValueError: if there are not two seeds and two units at least.

    Paper: The language-as-fixed-effect fallacy (Clark 1973): both are random; the parts are estimated by the
    analysis of variance of two crossed random effects. Sampling Techniques (Cochran 1977), section 6.3, for
    units of unequal size.
    """
    arms, seeds, samples = correct.shape
    units = int(unit.max()) + 1
    if seeds < 2 or units < 2:
        raise ValueError(f"{seeds} seeds and {units} test units have no spread: two of each are needed")
    size = np.bincount(unit)
    counted = np.zeros((units, arms * seeds))
    np.add.at(counted, unit, correct.reshape(-1, samples).T)
    hits = counted.T.reshape(arms, seeds, units)
    # How far each unit is from what its size lets expect; of samples, 0 or 1 less the mean.
    off = (hits - correct.mean((1, 2))[:, None, None] * size) * (units / samples)
    row, column = off.mean(2), off.mean(1)
    rest = (off - row[:, :, None] - column[:, None, :]).reshape(arms, -1)
    of_rest = rest @ rest.T / ((seeds - 1) * (units - 1))
    between_seeds = units * row @ row.T / (seeds - 1) - of_rest
    values, vectors = np.linalg.eigh(between_seeds)
    by_seeds = (vectors * values.clip(min=0)) @ vectors.T / (seeds * units)  # a variance is not below zero
    return Spread(by_seeds, column @ column.T / (units - 1) / units, seeds, units)


def gain(value: float, contrast: Float[np.ndarray, " arm"], spread: Spread) -> dict[str, Any]:
    """Judge a paired difference of accuracies [0–1]: in points, with its 95 % interval and its verdict."""
    variance, errors = spread.of(contrast)
    half = errors * math.sqrt(variance)
    points = {"value_points": value, "low_points": value - half, "high_points": value + half}
    return {
        **{name: round(100 * share, 4) for name, share in points.items()},
        "verdict": verdict(value - half, value + half),
    }


def share_of(
    part: float,
    whole: float,
    parts: Float[np.ndarray, " arm"],
    wholes: Float[np.ndarray, " arm"],
    spread: Spread,
) -> dict[str, float] | None:
    """Give part / whole with its 95 % interval; None where the whole is not clearly above zero.

    Args:
        part: what was gained.
        whole: what could have been.
        parts: the first, as weights of the arms' accuracies.
        wholes: the second.
        spread: of the arms' accuracies.

    Paper: Some problems in interval estimation (Fieller 1954).
    """
    variance, errors = spread.of(wholes)
    squared, every = errors * errors, spread.by_seeds + spread.by_units
    a = whole * whole - squared * variance
    if whole <= 0 or a <= 0:
        return None
    b = part * whole - squared * float(parts @ every @ wholes)
    c = part * part - squared * float(parts @ every @ parts)
    half = math.sqrt(max(b * b - a * c, 0.0))
    return {
        name: round(x, 6)
        for name, x in zip(
            ("value", "low", "high"), (part / whole, (b - half) / a, (b + half) / a), strict=True
        )
    }


def describe(
    measure: str,
    plan: Plan,
    correct: Bool[np.ndarray, "arm seed sample"],
    unit: Int[np.ndarray, " sample"],
) -> dict[str, Any]:
    """Describe, as JSON, what one measure found of all arms: accuracies, gains, recovery.

    Args:
        measure: its name.
        plan: the arms.
        correct: whether each arm got each test sample right with each seed.
        unit: number of what counts as one test sample.
    """
    names = [arm.name for arm in plan.arms]
    around = spread(correct, unit)
    accuracies = dict(zip(names, correct.mean(2), strict=True))
    mean = {arm: float(values.mean()) for arm, values in accuracies.items()}
    alone = dict(zip(names, np.eye(len(names)), strict=True))

    compared = []
    for arm in plan.arms:
        for against in arm.against:
            if against in mean:
                contrast = alone[arm.name] - alone[against]
                judged = gain(mean[arm.name] - mean[against], contrast, around)
                compared.append({"arm": arm.name, "against": against, **judged})

    def recovery(arm: str) -> dict[str, Any]:
        nothing = {"arm": arm, "status": "skipped", "value": None, "low": None, "high": None}
        if ORACLE not in mean:
            return {**nothing, "reason": plan.absent[ORACLE]}
        (part, parts), (whole, wholes) = (
            (mean[name] - mean[DELIVERED], alone[name] - alone[DELIVERED]) for name in (arm, ORACLE)
        )
        share = share_of(part, whole, parts, wholes, around)
        if share is None:
            return {**nothing, "reason": "true labels make no measurable gain, of which a share could be had"}
        return {"arm": arm, "status": "ok", "reason": "", **share}

    return {
        "measure": measure,
        "status": "ok",
        "reason": "",
        "seeds": correct.shape[1],
        "arms": [
            {
                **_about(arm, plan.arms[0]),
                **_accuracy(accuracies[arm.name], *around.of(alone[arm.name]), around.units),
            }
            for arm in plan.arms
        ],
        "absent": [{"arm": arm, "reason": reason} for arm, reason in plan.absent.items()],
        "gains": compared,
        "recovery": [recovery(name) for name in names if name.partition("@")[0] == ROUND],
    }


def _about(arm: Arm, delivered: Arm) -> dict[str, Any]:
    given, known = delivered.labels != UNLABELLED, arm.labels != UNLABELLED
    return {
        "arm": arm.name,
        "n": arm.learned,
        "dropped": int((given & ~known).sum()) + arm.random_drops,
        "relabelled": int((known & (arm.labels != delivered.labels)).sum()),
    }


def _accuracy(
    values: Float[np.ndarray, " seed"], variance: float, errors: float, units: int
) -> dict[str, Any]:
    mean, half = float(values.mean()), errors * math.sqrt(variance)
    low, high = max(mean - half, 0.0), min(mean + half, 1.0)
    if not half:  # all right, or all wrong: as many more may differ from them as from so many units
        low, high = wilson(round(mean * units), units)
    return {
        "accuracies": [round(float(value), 6) for value in values],
        "mean": round(mean, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }
