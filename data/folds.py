"""Out-of-fold predictions: what a model thinks of samples, and of their kin, that it was not trained on."""

from typing import Literal

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from sklearn.base import ClassifierMixin
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

Vectors = np.ndarray | scipy.sparse.csr_array
Scheme = Literal["grouped", "random"]


def kin(*columns: np.ndarray) -> np.ndarray:
    """Number the families of samples: two are kin if some column gives both the same number.

    Args:
        *columns: for each sample a family number, -1 for none; groups and duplicate sets, say.

    Returns:
        A family number for each sample; kinship is transitive.
    """
    size = len(columns[0])
    rows, families, offset = [], [], 0
    for column in columns:
        member = np.flatnonzero(column >= 0)
        rows.append(member)
        families.append(column[member] + offset)
        offset += int(column.max(initial=-1)) + 1
    row, family = np.concatenate(rows), np.concatenate(families)
    links = scipy.sparse.coo_array(
        (np.ones(len(row)), (row, size + family)), shape=(size + offset, size + offset)
    )
    return connected_components(links, directed=False)[1][:size]


def linear(vectors: Vectors, inverse_penalty: float) -> ClassifierMixin:
    """Make an unfitted logistic regression that suits the vectors: TF-IDF if they are sparse."""
    regression = LogisticRegression(C=inverse_penalty, max_iter=300)
    scale = TfidfTransformer() if scipy.sparse.issparse(vectors) else StandardScaler()
    return make_pipeline(scale, Normalizer(), regression)


def neighbours(vectors: Vectors, k: int) -> ClassifierMixin:
    """Make an unfitted k-NN classifier by cosine."""
    scale = TfidfTransformer() if scipy.sparse.issparse(vectors) else StandardScaler()
    vote = KNeighborsClassifier(k, metric="cosine", weights="distance", algorithm="brute")
    return make_pipeline(scale, vote)


def fit_predict(
    model: ClassifierMixin, vectors: Vectors, labels: np.ndarray, asked: Vectors, classes: int
) -> np.ndarray:
    """Fit, and give probabilities with one column per class, also for classes without a sample."""
    model.fit(vectors, labels)
    probabilities = np.zeros((asked.shape[0], classes))
    probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities


def out_of_fold(
    model: ClassifierMixin,
    vectors: Vectors,
    labels: np.ndarray,
    trusted: np.ndarray,
    families: np.ndarray,
    classes: int,
    *,
    folds: int,
    seed: int,
) -> np.ndarray:
    """Predict every sample by a model that saw neither it nor its kin.

    Args:
        model: unfitted; fitted anew for each fold.
        vectors: one row per sample.
        labels: class index, as delivered; folds are stratified by it.
        trusted: class index to learn from, -1 where a sample is not to be learned from.
        families: samples of one family share a fold.
        classes: number of classes.
        folds: number of folds.
        seed: of the folds.

    Returns:
        Probabilities `[sample, class]`.

    Raises:
        RuntimeError: if a sample was predicted other than exactly once.
    """
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    probabilities = np.full((len(labels), classes), np.nan)
    times = np.zeros(len(labels), int)
    for rest, held_out in splitter.split(vectors, labels, families):
        learned = rest[trusted[rest] >= 0]
        probabilities[held_out] = fit_predict(
            model, vectors[learned], trusted[learned], vectors[held_out], classes
        )
        times[held_out] += 1
    if not (times == 1).all():
        raise RuntimeError(f"{int((times != 1).sum())} samples are not predicted exactly once")
    return probabilities
