"""Out-of-fold predictions: what a model thinks of samples when it met neither them nor their kin."""

import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.naive_bayes import ComplementNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from winnow.data.engine import HERE, Workers, calls
from winnow.data.neighbours import Graph, Vectors
from winnow.data.stage import BadInput

_TOUCHING = 1e-6  # distance below which neighbours count as equally near
_DOUBT = 0.01  # of all votes, that each class gets without a voter


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
    if scipy.sparse.issparse(vectors):
        return make_pipeline(TfidfTransformer(), regression)  # which makes vectors of length 1, too
    return make_pipeline(StandardScaler(), Normalizer(), regression)


def counting(vectors: Vectors) -> Pipeline:
    """Make an unfitted naive Bayes classifier of hashed words: it errs otherwise than a linear model.

    Paper: Tackling the poor assumptions of naive Bayes text classifiers (Rennie et al. 2003).
    """
    return make_pipeline(TfidfTransformer(), ComplementNB(alpha=0.3))


def neighbours(vectors: Vectors, k: int) -> Pipeline:
    """Make an unfitted k-NN classifier by cosine."""
    scale = TfidfTransformer() if scipy.sparse.issparse(vectors) else StandardScaler()
    vote = KNeighborsClassifier(k, metric="cosine", weights="distance", algorithm="brute")
    return make_pipeline(scale, vote)


def vote(graph: Graph, labels: np.ndarray, fold: np.ndarray, classes: int) -> np.ndarray:
    """Let the neighbours of each sample vote that stand in other folds than its own.

    Args:
        graph: neighbours of each sample.
        labels: class index of each sample, -1 of one that has no vote.
        fold: of each sample; -1 of one that nothing is learned from.
        classes: number of classes.

    Returns:
        Shares of the votes `[sample, class]`, near ones weighing more; even shares where nobody votes.
    """
    shares = np.full((len(labels), classes), 0.0, np.float32)
    rows = np.arange(len(labels))
    for column, distance in zip(graph.index.T, graph.distance.T, strict=True):
        heard = (labels[column] >= 0) & (fold[column] >= 0) & (fold[column] != fold)
        weight = 1 / np.maximum(distance[heard], _TOUCHING)
        shares[rows[heard], labels[column[heard]]] += weight
    shares += _DOUBT * np.maximum(shares.sum(1, keepdims=True), _TOUCHING)  # no class is impossible
    return shares / shares.sum(1, keepdims=True)


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


def deal(labels: np.ndarray, families: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Deal samples to folds: families whole, classes evenly.

    Args:
        labels: class index of each sample.
        families: samples of one family share a fold.
        folds: number of folds.
        seed: of the order in which they are dealt.

    Returns:
        The fold of each sample.

    Raises:
        BadInput: if there are more folds than families, or than samples of any class.
    """
    _, family, size = np.unique(families, return_inverse=True, return_counts=True)
    if folds > len(size):
        raise BadInput(
            f"{folds} folds need as many families of samples, not {len(size)}: ask for fewer folds"
        )
    if folds > np.bincount(labels).max():
        raise BadInput(f"no class has a sample for each of {folds} folds: ask for fewer folds")
    fold = np.full(len(labels), -1)
    together = np.flatnonzero(size[family] > 1)
    relatives = np.unique(family[together])
    if len(relatives) >= folds:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # Some classes have fewer samples than there are folds: the audit reports rare classes.
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            fold_of = splitter.split(together, _enough(labels[together], folds), family[together])
            for number, (_, held_out) in enumerate(fold_of):
                fold[together[held_out]] = number
    elif len(relatives):
        fold[together] = np.searchsorted(relatives, family[together]) % folds
    # Samples without kin, most of a large dataset, fill the folds up, class by class.
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        here = labels == label
        single = random.permutation(np.flatnonzero(here & (fold < 0)))
        held, others = (np.bincount(fold[dealt & (fold >= 0)], minlength=folds) for dealt in (here, ~here))
        fold[single] = _fill(held, others, len(single), random)
    return fold


def _enough(labels: np.ndarray, folds: int) -> np.ndarray:
    """Make classes too rare for the splitter one class, if that would keep it from splitting at all."""
    return labels if np.bincount(labels).max() >= folds else np.zeros_like(labels)


def _fill(held: np.ndarray, others: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """Name the folds of so many more samples of a class: each goes where fewest of it are, then of others."""
    heights = np.add.outer(np.arange(number), held)
    # Without the others, all classes of a sample or two would meet in the first folds.
    lowest = np.lexsort((np.broadcast_to(others, heights.shape).ravel(), heights.ravel()))[:number]
    return random.permutation(lowest % len(held))


class _Exam(NamedTuple):
    model: Pipeline
    vectors: Vectors
    trusted: np.ndarray
    fold: np.ndarray
    asked: np.ndarray
    classes: int

    def rows(self, number: int) -> np.ndarray:
        """Give who is predicted together: a fold, and after the last one those who are in none."""
        return np.flatnonzero(self.fold == number) if number <= self.fold.max() else self.asked


def out_of_fold(
    model: Pipeline,
    vectors: Vectors,
    trusted: np.ndarray,
    fold: np.ndarray,
    classes: int,
    *,
    asked: np.ndarray | None = None,
    workers: Workers = HERE,
) -> np.ndarray:
    """Predict every sample by a model that saw neither it nor its kin.

    Args:
        model: unfitted; fitted anew for each fold.
        vectors: one row per sample.
        trusted: class index to learn from, -1 where a sample is not to be learned from.
        fold: of each sample, as `deal` gives it; -1 for samples that are not learned from.
        classes: number of classes.
        asked: rows in no fold, that a model of all folds predicts.
        workers: who fits.

    Returns:
        Probabilities `[sample, class]`; zeros for those in no fold that are not asked.
    """
    exam = _Exam(model, vectors, trusted, fold, np.zeros(0, int) if asked is None else asked, classes)
    numbers = range(fold.max() + 1 + (len(exam.asked) > 0))
    probabilities = np.zeros((len(fold), classes), np.float32)
    for number, found in zip(numbers, calls(_predict, exam, numbers, workers), strict=True):
        probabilities[exam.rows(number)] = found
    return probabilities


def _predict(exam: _Exam, number: int) -> np.ndarray:
    learned = np.flatnonzero((exam.fold >= 0) & (exam.fold != number) & (exam.trusted >= 0))
    given, asked = exam.vectors[learned], exam.vectors[exam.rows(number)]
    found = fit_predict(exam.model, given, exam.trusted[learned], asked, exam.classes)
    return found.astype(np.float32)


def mixture(likelihoods: list[np.ndarray]) -> np.ndarray:
    """Weigh several predictors of the same labels so that their mixture predicts best.

    Args:
        likelihoods: for each predictor the probabilities that it gave to the labels, out of fold.

    Returns:
        A share for each predictor; they sum to 1 and have the least log loss together.

    Paper: Maximum likelihood from incomplete data (Dempster et al. 1977), section 4.3: the weights of
    a mixture whose components are known.
    """
    given = np.stack(likelihoods, 1).astype(float) + 1e-6  # no label is impossible
    shares = np.full(given.shape[1], 1 / given.shape[1])
    for _ in range(200):
        owed = shares * given
        shares = (owed / owed.sum(1, keepdims=True)).mean(0)
    return shares
