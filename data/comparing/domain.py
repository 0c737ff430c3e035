"""The domain classifier: can a model tell which of two sets a sample comes from?

Where single measures agree, the samples may still differ as a whole. A model that tells them apart on
samples it did not learn from has found a difference.

Paper: Revisiting classifier two-sample tests (Lopez-Paz and Oquab 2017).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.stats import rankdata
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.preprocessing import StandardScaler

from winnow.data.folds import Vectors

_CELLS = 4_000_000  # of one chunk of deals


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model that tells two sets apart.

    Attributes:
        rows: samples of each set that it sees at most.
        folds: number of folds.
        directions: of the descriptors that it sees at most; those of the largest variance.
        shrinkage: weight of an even spread in all directions beside the one found [0–1].
        min_auc: from which sets differ, where chance gives 0.5.
    """

    rows: int
    folds: int
    directions: int
    shrinkage: float
    min_auc: float


class Domain(NamedTuple):
    """How well two sets are told apart.

    Attributes:
        auc: chance that a sample of the second set looks more like it than one of the first, by a
            model that saw neither; 0.5 if there is nothing to tell.
        low: lower end of its 95 % interval.
        high: upper end of it.
        chance: mean of it over random deals of the blocks.
        p: share of these deals that show as much.
    """

    auc: float
    low: float
    high: float
    chance: float
    p: float


def domain(
    vectors: Vectors,
    blocks: np.ndarray,
    side: np.ndarray,
    classifier: Classifier,
    *,
    permutations: int,
    seed: int,
) -> Domain:
    """Tell two sets apart out of fold, by a linear discriminant.

    Every deal is learned and judged anew: scores of one fit dealt at random would be too sure, since
    what one fold holds out the others have learned from. That takes a model whose scores are linear in
    the sides, so that thousands of fits are one product of matrices.

    Args:
        vectors: one row per sample.
        blocks: block of each sample, from 0: its group, or itself. A block is held out as a whole.
        side: whether a block is of the second set; each set has two blocks or more.
        classifier: the model.
        permutations: deals, and resamples of the blocks for the interval.
        seed: of folds, deals and resamples.
    """
    random = np.random.default_rng(seed)
    x = _dense(vectors, classifier.directions, seed)
    # Folds know nothing of sides: so a deal is like any other, and the test is exact.
    fold = random.permutation(len(side)) % min(classifier.folds, len(side))
    learned = _Folds(x, fold[blocks], classifier.shrinkage)
    scores = learned.scores(side[blocks][:, None])
    auc = float(_auc(scores, side[blocks][:, None])[0])
    chunk = max(1, _CELLS // len(x))
    null = []
    for done in range(0, permutations, chunk):
        deals = np.tile(side[:, None], (1, min(chunk, permutations - done)))
        dealt = random.permuted(deals, axis=0)[blocks]
        null.append(_auc(learned.scores(dealt), dealt))
    by_chance = np.concatenate(null)
    # The bootstrap sees one fit alone; how much fits differ is seen by chance. The wider one counts.
    spread = max(_bootstrap(scores[:, 0], blocks, side, permutations, random), float(by_chance.std()))
    p = (1 + int((by_chance >= auc - 1e-12).sum())) / (1 + permutations)
    low, high = max(0.0, auc - 1.96 * spread), min(1.0, auc + 1.96 * spread)
    return Domain(auc, low, high, float(by_chance.mean()), p)


def _dense(vectors: Vectors, directions: int, seed: int) -> np.ndarray:
    """Bring features to one scale, and down to the directions in which samples differ most."""
    sparse = scipy.sparse.issparse(vectors)
    scaled = (TfidfTransformer() if sparse else StandardScaler()).fit_transform(vectors)
    most = min(directions, min(scaled.shape) - 1)
    if not sparse and most >= scaled.shape[1] - 1:
        return np.asarray(scaled, float)
    return TruncatedSVD(max(most, 1), random_state=seed).fit_transform(scaled).astype(float)


class _Folds:
    """What does not change from deal to deal: for each fold, how scores follow from the sides."""

    def __init__(self, x: np.ndarray, fold: np.ndarray, shrinkage: float) -> None:
        self._parts = []
        for held in np.unique(fold):
            rest = fold != held
            centre = x[rest].mean(0)
            centred = x[rest] - centre
            covariance = centred.T @ centred / len(centred)
            even = max(np.trace(covariance) / len(covariance), np.finfo(float).tiny)
            covariance *= 1 - shrinkage
            covariance[np.diag_indices_from(covariance)] += shrinkage * even
            self._parts.append(
                (~rest, rest, np.linalg.solve(covariance, (x[~rest] - centre).T).T, centred / len(centred))
            )

    def scores(self, second: np.ndarray) -> np.ndarray:
        """Score every sample by the fold that held it out, for sides `[sample, deal]`."""
        found = np.empty(second.shape)
        for held, rest, weights, centred in self._parts:
            found[held] = weights @ (centred.T @ second[rest].astype(float))
        return found


def _auc(scores: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Give the area under the ROC curve for each column: the share of pairs in the right order."""
    number = second.sum(0)
    ranks = (rankdata(scores, axis=0) * second).sum(0)
    return (ranks - number * (number + 1) / 2) / (number * (len(second) - number))


def _bootstrap(
    scores: np.ndarray, blocks: np.ndarray, side: np.ndarray, resamples: int, random: np.random.Generator
) -> float:
    """Give the standard deviation of the area over resampled blocks of both sets."""
    level = np.unique(scores, return_inverse=True)[1]
    order = np.argsort(level, kind="stable")
    starts = np.flatnonzero(np.diff(level[order], prepend=-1))
    found = []
    chunk = max(1, _CELLS // len(scores))
    for done in range(0, resamples, chunk):
        size = min(chunk, resamples - done)
        high, low = (
            np.add.reduceat(
                random.multinomial(int(one.sum()), one / one.sum(), size=size)[:, blocks[order]],
                starts,
                axis=1,
            ).astype(float)
            for one in (side, ~side)
        )
        below = low.cumsum(1) - low / 2
        found.append((high * below).sum(1) / (high.sum(1) * low.sum(1)))
    return float(np.concatenate(found).std())
