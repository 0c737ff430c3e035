"""Detectors: wrong labels, outliers, near duplicates, annotators; the one module to import cleanlab.

Everything is asked of cleanlab's functions and not of its Datalab, which goes on in silence when a
check fails: here a check that fails takes the stage down.
"""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import TfidfTransformer

from winnow.data.judging import duplicates, noise
from winnow.data.judging.noise import NoiseModel
from winnow.data.neighbours import Graph, Vectors

with warnings.catch_warnings():
    # Importing cleanlab silences every warning of the process; leaving this block undoes that.
    from cleanlab.count import compute_confident_joint, estimate_joint, num_label_issues
    from cleanlab.filter import find_label_issues
    from cleanlab.multiannotator import get_label_quality_multiannotator
    from cleanlab.rank import get_label_quality_scores

_HEARD = 10  # neighbours whose mean distance says how far out a sample is, as cleanlab has it
_OUTLIER_FACTOR = 1.7  # interquartile ranges above the third quartile, cleanlab's own rule


class Detected(NamedTuple):
    """Which detectors of wrong labels flag each sample, and how many there seem to be.

    Attributes:
        by_margin: the calibrated number of lowest margins.
        by_filter: cleanlab's pruning by noise rate.
        by_neighbours: a vote of the neighbours against the label, the noise considered that the vote shows.
        off_diagonal: share of wrong labels, of the confident joint.
        calibrated: the same of the calibrated one.
    """

    by_margin: np.ndarray
    by_filter: np.ndarray
    by_neighbours: np.ndarray
    off_diagonal: float
    calibrated: float


def detect(labels: np.ndarray, judged: np.ndarray, voted: np.ndarray, seed: int) -> Detected:
    """Ask cleanlab's detectors about given labels.

    Args:
        labels: class index of each sample; every class occurs.
        judged: out-of-fold probabilities `[sample, class]` of the model.
        voted: the same of the neighbours' vote.
        seed: see `noise_model`.

    Raises:
        ValueError: if probabilities are no probabilities, or a class has no sample.
    """
    if not np.allclose(judged.sum(1), 1, atol=1e-3):
        raise ValueError("out-of-fold probabilities do not sum to 1")
    if len(np.unique(labels)) != judged.shape[1]:
        raise ValueError(f"{judged.shape[1]} classes, but labels of {len(np.unique(labels))}")
    quality = get_label_quality_scores(labels, judged, method="normalized_margin")
    plain = num_label_issues(labels, judged, estimation_method="off_diagonal")
    calibrated = num_label_issues(labels, judged, estimation_method="off_diagonal_calibrated")
    suspects = np.flatnonzero(judged.argmax(1) != labels)
    by_margin = np.zeros(len(labels), bool)
    by_margin[suspects[np.argsort(quality[suspects], kind="stable")][:calibrated]] = True
    with warnings.catch_warnings():
        # It leaves classes of a sample or two alone: the audit reports rare classes.
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)
        by_filter = find_label_issues(labels, judged, filter_by="prune_by_noise_rate", n_jobs=1)
    # Where two labels in five are wrong, hardly any vote has a majority, and many a label next to no vote.
    by_neighbours = noise_model(voted, labels, seed).wrong(voted, labels) > 0.5
    size = len(labels)
    return Detected(by_margin, by_filter, by_neighbours, plain / size, calibrated / size)


def transition(labels: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Estimate the probability of a given label (column) where a label is true (row).

    Args:
        labels: class index of each sample, as given; classes that do not occur keep their labels.
        judged: out-of-fold probabilities `[sample, class]`.

    Paper: Confident learning (Northcutt et al. 2021), section 3.1: the confident joint.
    """
    found = np.eye(judged.shape[1])
    present, within = np.unique(labels, return_inverse=True)
    if len(present) > 1:
        probabilities = judged[:, present] / np.maximum(judged[:, present].sum(1, keepdims=True), 1e-12)
        confident = compute_confident_joint(within, probabilities)
        joint = estimate_joint(within, probabilities, confident_joint=confident)
        # A class of a sample or two may have no confident one: nothing says that its labels go astray.
        met = joint.sum(0) > 0
        found[np.ix_(present[met], present)] = (joint[:, met] / joint[:, met].sum(0)).T
    return found


def noise_model(judged: np.ndarray, labels: np.ndarray, seed: int) -> NoiseModel:
    """Fit how labels went wrong, beginning with the confident joint.

    Args:
        judged: out-of-fold probabilities `[sample, class]`.
        labels: class index of each sample, as given.
        seed: of the samples that are fitted to, if there are very many.
    """
    return noise.fit(judged, labels, transition(labels, judged), seed=seed)


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


def neighbourhood(graph: Graph, near_fraction: float) -> Neighbourhood:
    """Look for outliers and near duplicates among the nearest neighbours.

    Distances are Euclidean: to cosines of centred vectors a handful of noisy images look alike, since
    they all point the same way. Outliers that come in a tight crowd of more than k are neighbours to each
    other, and are not found.

    Args:
        graph: of samples that are different: their equals' zero distances would hide the typical one.
        near_fraction: a pair is near if its squared distance is below this fraction of the median
            squared distance to the nearest neighbour. Between vectors of length 1 these are twice
            the cosine distances, and the rule is cleanlab's.
    """
    mean = graph.distance[:, :_HEARD].mean(1, dtype=float)
    score = np.exp(-mean / max(np.median(mean), np.finfo(float).eps))
    lower, upper = np.quantile(mean, [0.25, 0.75])
    outlier = mean > upper + _OUTLIER_FACTOR * (upper - lower)

    near = graph.distance < np.sqrt(near_fraction) * np.median(graph.distance[:, 0])
    row, column = np.nonzero(near)
    pairs = scipy.sparse.coo_array(
        (np.ones(len(row)), (row, graph.index[row, column])), shape=[len(mean)] * 2
    )
    near_set = duplicates.numbered(connected_components(pairs, directed=False)[1])
    return Neighbourhood(score, outlier, near_set)


def comparable(vectors: Vectors) -> Vectors:
    """Bring features to one scale, so that distances mean something: rare words count more."""
    if not isinstance(vectors, np.ndarray):
        return scipy.sparse.csr_array(TfidfTransformer().fit_transform(vectors))
    spread = vectors.std(axis=0)
    if not spread.any():
        return vectors
    # Divided by its own small spread, a pixel that is dark in almost all images would outweigh the rest.
    return (vectors / np.maximum(spread, np.median(spread[spread > 0]))).astype(np.float32)


class Crowd(NamedTuple):
    """What several annotators agree on.

    Attributes:
        label: class index of each sample.
        quality: probability that it is right [0–1].
        annotators: a row for each, `n`, `agreement` with the consensus, `quality`, `worst_class`.
    """

    label: np.ndarray
    quality: np.ndarray
    annotators: pd.DataFrame


def crowd(votes: np.ndarray, judged: np.ndarray) -> Crowd:
    """Weigh annotators and the model by how far they agree (CROWDLAB).

    Args:
        votes: class index by `[sample, annotator]`, NaN where there is none; no row and no column is
            empty, and some sample has two votes.
        judged: out-of-fold probabilities `[sample, class]`.
    """
    # Its default, the majority's vote, loses a seventh of the labels that the best quality gets right.
    found = get_label_quality_multiannotator(
        votes, judged, consensus_method="best_quality", return_detailed_quality=True, verbose=False
    )
    label, stats = found["label_quality"], found["annotator_stats"].sort_index()
    names = {
        "num_examples_labeled": "n",
        "agreement_with_consensus": "agreement",
        "annotator_quality": "quality",
        "worst_class": "worst_class",
    }
    return Crowd(
        label["consensus_label"].to_numpy(int),
        label["consensus_quality_score"].to_numpy(float),
        stats.rename(columns=names)[list(names.values())],
    )
