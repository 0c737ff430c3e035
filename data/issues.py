"""Detectors: wrong labels, outliers, exact and near duplicates; the one module to import cleanlab.

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
from sklearn.neighbors import NearestNeighbors

from winnow.data.folds import Vectors
from winnow.data.stage import BadInput

with warnings.catch_warnings():
    # Importing cleanlab silences every warning of the process; leaving this block undoes that.
    from cleanlab.count import compute_confident_joint, estimate_joint, num_label_issues
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

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
    with warnings.catch_warnings():
        # It leaves classes of a sample or two alone: the audit reports rare classes.
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)
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
    _, first, inverse, counts = np.unique(members, return_index=True, return_inverse=True, return_counts=True)
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


def neighbourhood(vectors: Vectors, exact: np.ndarray, *, k: int, near_fraction: float) -> Neighbourhood:
    """Look for outliers and near duplicates among the nearest neighbours.

    Distances are Euclidean: to cosines of centred vectors a handful of noisy images look alike, since
    they all point the same way. Equal samples count once: their zero distances would hide the
    typical one. Outliers that come in a tight crowd of more than k are neighbours to each other, and
    are not found.

    Args:
        vectors: one row per sample.
        exact: their exact sets.
        k: neighbours of a sample.
        near_fraction: a pair is near if its squared distance is below this fraction of the median
            squared distance to the nearest neighbour. Between vectors of length 1 these are twice
            the cosine distances, and the rule is cleanlab's.

    Raises:
        BadInput: if there are not more than k different samples.
    """
    first = np.isin(np.arange(len(exact)), np.unique(exact, return_index=True)[1])
    once = np.flatnonzero((exact < 0) | first)
    if len(once) <= k:
        raise BadInput(f"{len(once)} different samples are too few for {k} neighbours")
    nearest = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(_scaled(vectors[once]))
    distance, neighbour = nearest.kneighbors()

    mean = distance.mean(1)
    score = np.exp(-mean / max(np.median(mean), np.finfo(float).eps))
    lower, upper = np.quantile(mean, [0.25, 0.75])
    outlier = mean > upper + _OUTLIER_FACTOR * (upper - lower)

    near = distance < np.sqrt(near_fraction) * np.median(distance[:, 0])
    row, column = np.nonzero(near)
    pairs = scipy.sparse.coo_array(
        (np.ones(len(row)), (row, neighbour[row, column])), shape=(len(once), len(once))
    )
    near_set = _sets(connected_components(pairs, directed=False)[1])
    return Neighbourhood(*(_spread(part, once, exact) for part in (score, outlier, near_set)))


def _scaled(vectors: Vectors) -> Vectors:
    """Bring features to one scale; hashed words have one."""
    if not isinstance(vectors, np.ndarray):
        return vectors
    spread = vectors.std(axis=0)
    if not spread.any():
        return vectors
    # Divided by its own small spread, a pixel that is dark in almost all images would outweigh the rest.
    return vectors / np.maximum(spread, np.median(spread[spread > 0]))


def _spread(values: np.ndarray, once: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Give every member of an exact set the value of the one that counted."""
    spread = np.zeros(len(exact), values.dtype)
    spread[once] = values
    value_of = {exact[i]: values[j] for j, i in enumerate(once) if exact[i] >= 0}
    for i in np.flatnonzero(exact >= 0):
        spread[i] = value_of[exact[i]]
    return spread
