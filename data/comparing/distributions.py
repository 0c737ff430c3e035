"""Distributions as counts in bins: how far two are apart, and whether chance gives as much.

A comparison is of two rows of counts in the same bins, be they quantiles of a measure, classes or groups.
So it costs the same for any number of samples, and an old version of a dataset, of which nothing but
counts is left, is compared in the same way as samples that are at hand.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse

_CELLS = 4_000_000  # of one chunk of permutations
_TIE = 1e-12  # two distances that differ by less are the same one


class Column(NamedTuple):
    """One thing known of each sample, cut into bins.

    Attributes:
        codes: bin of each sample, -1 where there is no value.
        bins: their number.
        ordered: whether neighbouring bins are alike, as those of a measure are and classes are not.
    """

    codes: np.ndarray
    bins: int
    ordered: bool

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Count the samples of some rows in each bin."""
        found = self.codes[rows]
        return np.bincount(found[found >= 0], minlength=self.bins)


class Distance(NamedTuple):
    """How far two distributions are apart.

    Attributes:
        effect: Kolmogorov–Smirnov D if bins are ordered, else total variation [0–1].
        chance: its mean over permutations: what two parts of one and the same dataset show.
        p: share of permutations that show as much.
    """

    effect: float
    chance: float
    p: float


def edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Cut values into about as many bins of equal counts; give the inclusive upper edges but the last.

    A value that fills a bin and more by itself, and the least of all, get a bin of their own: whatever
    comes below or between them one day shows.

    Args:
        values: finite numbers, at least one.
        bins: at least 2.
    """
    found = np.quantile(values, np.linspace(0, 1, bins + 1), method="inverted_cdf")
    upper, times = np.unique(found, return_counts=True)
    alone = upper[(times > 1) | (upper == upper[0])]
    smooth = [float(f"{value:.7g}") for value in upper[times == 1]]
    return np.unique(np.concatenate([smooth, alone, np.nextafter(alone, -np.inf)]))


def binned(values: np.ndarray, upper: np.ndarray) -> Column:
    """Sort values into the bins that `edges` gave; what is not finite is in none."""
    codes = np.searchsorted(upper, values, side="left")
    return Column(np.where(np.isfinite(values), codes, -1), len(upper) + 1, ordered=True)


def distance(a: np.ndarray, b: np.ndarray, *, ordered: bool) -> np.ndarray:
    """Measure how far two distributions are apart [0–1], along the last axis of their counts.

    The largest difference of the shares up to a bin (Kolmogorov–Smirnov D) if bins are ordered, else
    the share that would have to change its bin (total variation).
    """
    share = [counts / np.maximum(counts.sum(-1, keepdims=True), 1) for counts in (a, b)]
    difference = share[1] - share[0]
    found = np.abs(difference.cumsum(-1)).max(-1) if ordered else np.abs(difference).sum(-1) / 2
    return np.asarray(found)


def by_sample(
    a: np.ndarray, b: np.ndarray, *, ordered: bool, permutations: int, random: np.random.Generator
) -> Distance:
    """Compare two rows of counts; chance deals the samples to the two sides one by one.

    Counts drawn without replacement are what a permutation of the samples leaves in the bins, ties and
    all: the test is exact, and needs no samples.
    """
    drawn = random.multivariate_hypergeometric(a + b, int(b.sum()), size=permutations, method="marginals")
    null = distance(a + b - drawn, drawn, ordered=ordered)
    return _against(null, float(distance(a, b, ordered=ordered)))


def by_block(
    columns: list[Column], blocks: np.ndarray, side: np.ndarray, *, permutations: int, seed: int
) -> list[Distance]:
    """Compare two sides; chance deals whole blocks (speakers, documents) to them.

    Samples of a block are alike. Dealt one by one they would make any two sets of speakers differ.

    Args:
        columns: what to compare.
        blocks: block of each sample, from 0.
        side: whether a block is on the second side.
        permutations: number of deals.
        seed: of the deals.
    """
    starts = np.cumsum([0, *(column.bins for column in columns)])
    row = [blocks[column.codes >= 0] for column in columns]
    bin_ = [c.codes[c.codes >= 0] + start for c, start in zip(columns, starts, strict=False)]
    cells = (np.concatenate(row), np.concatenate(bin_))
    held = scipy.sparse.csr_array((np.ones(len(cells[0])), cells), shape=(len(side), starts[-1]))
    held.sum_duplicates()
    total = held.sum(0)

    def apart(sides: np.ndarray) -> np.ndarray:
        second = (held.T @ sides.T.astype(float)).T
        first = total - second
        return np.stack(
            [
                distance(first[:, i:j], second[:, i:j], ordered=column.ordered)
                for column, i, j in zip(columns, starts, starts[1:], strict=False)
            ],
            1,
        )

    found, random = apart(side[None])[0], np.random.default_rng(seed)
    chunk = max(1, _CELLS // max(len(side), int(starts[-1])))
    null = np.concatenate(
        [
            apart(random.permuted(np.tile(side, (min(chunk, permutations - done), 1)), axis=1))
            for done in range(0, permutations, chunk)
        ]
    )
    return [_against(null[:, i], float(found[i])) for i in range(len(columns))]


def _against(null: np.ndarray, effect: float) -> Distance:
    # What was found is one of the deals that chance might have made.
    p = (1 + int((null >= effect - _TIE).sum())) / (1 + len(null))
    return Distance(effect, float(null.mean()), p)
