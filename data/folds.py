"""Out-of-fold predictions: what a model thinks of samples when it met neither them nor their kin."""

import warnings
from typing import Literal, TypeAlias

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from winnow.data.stage import BadInput

Vectors: TypeAlias = np.ndarray | scipy.sparse.csr_array
Scheme: TypeAlias = Literal["grouped", "random"]


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


def linear(vectors: Vectors, inverse_penalty: float) -> Pipeline:
    """Make an unfitted logistic regression that suits the vectors: TF-IDF if they are sparse."""
    regression = LogisticRegression(C=inverse_penalty, max_iter=300)
    scale = TfidfTransformer() if scipy.sparse.issparse(vectors) else StandardScaler()
    return make_pipeline(scale, Normalizer(), regression)


def neighbours(vectors: Vectors, k: int) -> Pipeline:
    """Make an unfitted k-NN classifier by cosine."""
    scale = TfidfTransformer() if scipy.sparse.issparse(vectors) else StandardScaler()
    vote = KNeighborsClassifier(k, metric="cosine", weights="distance", algorithm="brute")
    return make_pipeline(scale, vote)


def fit_predict(
    model: Pipeline, vectors: Vectors, labels: np.ndarray, asked: Vectors, classes: int
) -> np.ndarray:
    """Fit, and give probabilities with one column per class, also for classes without a sample.

    Raises:
        BadInput: if there is too little to learn from.
    """
    if len(np.unique(labels)) < 2:
        raise BadInput("all samples to learn from are of one class: there is nothing to tell apart")
    wanted = getattr(model[-1], "n_neighbors", 1)
    if len(labels) < wanted:
        raise BadInput(f"{len(labels)} samples to learn from are too few for {wanted} neighbours")
    model.fit(vectors, labels)
    probabilities = np.zeros((asked.shape[0], classes))
    probabilities[:, model.classes_] = model.predict_proba(asked)
    return probabilities


def out_of_fold(
    model: Pipeline,
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
        BadInput: if there are more folds than families, or than samples of any class.
        RuntimeError: if a sample was predicted other than exactly once.
    """
    if folds > len(np.unique(families)):
        raise BadInput(
            f"{folds} folds need as many families of samples (one group, say), not "
            f"{len(np.unique(families))}: ask for fewer folds, or for the scheme 'random'"
        )
    if folds > np.bincount(labels).max():
        raise BadInput(f"no class has a sample for each of {folds} folds: ask for fewer folds")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    probabilities = np.full((len(labels), classes), np.nan)
    times = np.zeros(len(labels), int)
    with warnings.catch_warnings():
        # Some classes have fewer samples than there are folds: the audit reports rare classes.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        dealt = list(splitter.split(vectors, labels, families))
    for rest, held_out in dealt:
        learned = rest[trusted[rest] >= 0]
        probabilities[held_out] = fit_predict(
            model, vectors[learned], trusted[learned], vectors[held_out], classes
        )
        times[held_out] += 1
    if not (times == 1).all():
        raise RuntimeError(f"{int((times != 1).sum())} samples are not predicted exactly once")
    return probabilities


def mixture(likelihoods: list[np.ndarray]) -> np.ndarray:
    """Weigh several predictors of the same labels so that their mixture predicts best.

    Args:
        likelihoods: for each predictor the probabilities that it gave to the labels, out of fold.

    Returns:
        A share for each predictor; they sum to 1 and have the least log loss together.

    Paper: Maximum likelihood from incomplete data (Dempster et al. 1977), section 4.3: the weights of
    a mixture whose components are known.
    """
    given = np.stack(likelihoods, 1) + 1e-6  # no label is impossible
    shares = np.full(given.shape[1], 1 / given.shape[1])
    for _ in range(200):
        owed = shares * given
        shares = (owed / owed.sum(1, keepdims=True)).mean(0)
    return shares
