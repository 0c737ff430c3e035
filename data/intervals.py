"""How sure a measured share is: intervals that every report prints beside its numbers."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Give the Wilson score interval of a share [0–1]; (0, 1) if nothing was tried.

    Paper: Probable inference (Wilson 1927).
    """
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = share * (1 - share) / trials + z * z / (4 * trials * trials)
    half = z * float(np.sqrt(spread)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def measured(name: str, correct: Sequence[bool] | np.ndarray) -> dict[str, float]:
    """Give an accuracy with its 95 % interval as three flat metrics."""
    hits, trials = int(np.sum(correct)), len(correct)
    low, high = wilson(hits, trials)
    share = hits / trials if trials else 0.0
    return {name: round(share, 6), f"{name}_low": round(low, 6), f"{name}_high": round(high, 6)}


def paired_difference(
    first: np.ndarray, second: np.ndarray, seed: int, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Give mean(second - first) over the same samples with its paired bootstrap 95 % interval.

    Args:
        first: one number per sample (1 for correct, say).
        second: the same samples' numbers under another model.
        seed: of the resampling.
        resamples: bootstrap draws.
    """
    difference = second.astype(float) - first.astype(float)
    # A difference of two 0/1 outcomes has three values: resampling their counts is exact and fast.
    values, counts = np.unique(difference, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(difference), counts / len(difference), size=resamples)
    means = draws @ values / len(difference)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def false_discovery_rates(p: Sequence[float]) -> np.ndarray:
    """Adjust the p-values of all tests that were made together: q, below which a share q is false.

    Paper: Controlling the false discovery rate (Benjamini and Hochberg 1995).
    """
    from scipy.stats import false_discovery_control  # half a second, which most stages need not wait

    return false_discovery_control(p, method="bh") if len(p) else np.zeros(0)


def verdict(low: float, high: float) -> str:
    """Say of a difference, by its interval, what may be claimed: an interval that holds 0 shows nothing."""
    if low > 0:
        return "gain"
    return "loss" if high < 0 else "no measurable gain"
