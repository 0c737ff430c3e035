"""Detectors: wrong labels, outliers, exact and near duplicates. The one module that imports cleanlab.

Everything is asked of cleanlab's functions and not of its Datalab, which goes on in silence when a
check fails: here a check that fails takes the stage down.
"""

import hashlib
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from sklearn.decomposition import TruncatedSVD
from sklearn.preprocessing import StandardScaler

from winnow.data.folds import Vectors

with warnings.catch_warnings():
    # Importing cleanlab silences every warning of the process; leaving this block undoes that.
    from cleanlab.count import compute_confident_joint, estimate_joint, num_label_issues
    from cleanlab.filter import find_label_issues
    from cleanlab.outlier import OutOfDistribution
    from cleanlab.rank import get_label_quality_scores

_DIMENSIONS = 128  # in which neighbours are looked for, where vectors are sparse
_OUTLIER_FACTOR = 1.7  # interquartile ranges above the third quartile, cleanlab's own rule


class LabelIssues(NamedTuple):
    """What the detectors say of each label.

    Attributes:
        quality: normalised margin of the given label [0–1]; low is suspicious.
        suggested: class index of the likeliest label.
        confidence: its probability.
        flagged: the calibrated number of lowest qualities.
        detectors: how many of three detectors flag it: that ranking, cleanlab's pruning by noise
            rate, and a confident vote of the neighbours for another label.
    """

    quality: np.ndarray
    suggested: np.ndarray
    confidence: np.ndarray
    flagged: np.ndarray
    detectors: np.ndarray


def label_issues(labels: np.ndarray, judged: np.ndarray, voted: np.ndarray) -> LabelIssues:
    """Judge given labels by out-of-fold probabilities.

    Args:
        labels: class index of each sample; every class occurs.
        judged: out-of-fold probabilities `[sample, class]` of the model.
        voted: the same of the neighbours' vote.

    Raises:
        ValueError: if probabilities are no probabilities, or a class has no sample.
    """
    if not np.allclose(judged.sum(1), 1, atol=1e-3):
        raise ValueError("out-of-fold probabilities do not sum to 1")
    if len(np.unique(labels)) != judged.shape[1]:
        raise ValueError(f"{judged.shape[1]} classes, but labels of {len(np.unique(labels))}")
    quality = get_label_quality_scores(labels, judged, method="normalized_margin")
    suggested = judged.argmax(1)
    count = num_label_issues(labels, judged, estimation_method="off_diagonal_calibrated")
    suspects = np.flatnonzero(suggested != labels)
    ranked = suspects[np.argsort(quality[suspects], kind="stable")]
    flagged = np.zeros(len(labels), bool)
    flagged[ranked[:count]] = True
    pruned = find_label_issues(labels, judged, filter_by="prune_by_noise_rate", n_jobs=1)
    majority = voted.max(1) > 0.5
    outvoted = majority & (voted.argmax(1) != labels)
    detectors = flagged.astype(int) + pruned + outvoted
    return LabelIssues(quality, suggested, judged.max(1), flagged, detectors)


def class_noise(labels: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Estimate the share of wrong labels in each class, from the calibrated confident joint."""
    confident = compute_confident_joint(labels, judged)
    joint = estimate_joint(labels, judged, confident_joint=confident)
    return 1 - np.diag(joint) / joint.sum(1)


def exact_sets(payloads: Iterable[bytes]) -> np.ndarray:
    """Number the sets of samples that are equal to the bit; -1 for a sample without an equal."""
    hashes = [hashlib.blake2b(payload, digest_size=16).digest() for payload in payloads]
    return _sets(np.unique(np.array(hashes, "S16"), return_inverse=True)[1])


def _sets(members: np.ndarray) -> np.ndarray:
    """Renumber sets by their first member; a set of one is -1."""
    _, first, inverse, counts = np.unique(
        members, return_index=True, return_inverse=True, return_counts=True
    )
    several = counts > 1
    number = np.full(len(counts), -1)
    order = np.argsort(first[several])
    number[np.flatnonzero(several)[order]] = np.arange(several.sum())
    return number[inverse]


class Neighbourhood(NamedTuple):
    """What the nearest neighbours say of each sample.

    Attributes:
        outlier_score: cleanlab's, of the mean distance to the neighbours [0–1]; low is far out.
        outlier: far beyond the bulk of those distances.
        near_set: set of samples much closer to each other than neighbours are; -1 for none.
    """

    outlier_score: np.ndarray
    outlier: np.ndarray
    near_set: np.ndarray


def neighbourhood(
    vectors: Vectors, exact: np.ndarray, *, k: int, near_fraction: float, seed: int
) -> Neighbourhood:
    """Look for outliers and near duplicates among cosine neighbours.

    Equal samples count once: their zero distances would hide the typical one.

    Args:
        vectors: one row per sample.
        exact: their exact sets.
        k: neighbours of a sample.
        near_fraction: a pair is near if its distance is below this fraction of the median distance
            to the nearest neighbour.
        seed: of the projection of sparse vectors.

    Raises:
        ValueError: if there are not more than k different samples.
    """
    first = np.isin(np.arange(len(exact)), np.unique(exact, return_index=True)[1])
    once = np.flatnonzero((exact < 0) | first)
    if len(once) <= k:
        raise ValueError(f"{len(once)} different samples are too few for {k} neighbours")
    space = _dense(vectors, seed)
    detector = OutOfDistribution(params={"k": k})
    score = detector.fit_score(features=space[once], verbose=False)
    distance, neighbour = detector.params["knn"].kneighbors(n_neighbors=k)

    mean = distance.mean(1)
    lower, upper = np.quantile(mean, [0.25, 0.75])
    outlier = mean > upper + _OUTLIER_FACTOR * (upper - lower)

    near = distance < near_fraction * np.median(distance[:, 0])
    row, column = np.nonzero(near)
    pairs = scipy.sparse.coo_array(
        (np.ones(len(row)), (row, neighbour[row, column])), shape=(len(once), len(once))
    )
    near_set = _sets(connected_components(pairs, directed=False)[1])
    return Neighbourhood(*(_spread(part, once, exact) for part in (score, outlier, near_set)))


def _dense(vectors: Vectors, seed: int) -> np.ndarray:
    if isinstance(vectors, np.ndarray):
        return StandardScaler().fit_transform(vectors)
    size = min(_DIMENSIONS, min(vectors.shape) - 1)
    return TruncatedSVD(size, random_state=seed).fit_transform(vectors)


def _spread(values: np.ndarray, once: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Give every member of an exact set the value of the one that counted."""
    spread = np.zeros(len(exact), values.dtype)
    spread[once] = values
    value_of = {exact[i]: values[j] for j, i in enumerate(once) if exact[i] >= 0}
    for i in np.flatnonzero(exact >= 0):
        spread[i] = value_of[exact[i]]
    return spread
