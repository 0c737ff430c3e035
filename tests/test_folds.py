from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline, make_pipeline

from winnow.data import folds
from winnow.data.stage import BadInput

columns = st.integers(1, 25).flatmap(
    lambda size: st.lists(st.lists(st.integers(-1, 6), min_size=size, max_size=size), min_size=1, max_size=3)
)


def naive_kin(columns: list[np.ndarray]) -> np.ndarray:
    """Spread the smallest member's number until nothing changes."""
    family = np.arange(len(columns[0]))
    changed = True
    while changed:
        changed = False
        for column in columns:
            for number in set(column[column >= 0]):
                members = np.flatnonzero(column == number)
                if len(set(family[members])) > 1:
                    family[members] = family[members].min()
                    changed = True
    return family


@given(columns)
def test_kin_are_the_transitive_families(lists: list[list[int]]) -> None:
    given_columns = [np.array(column) for column in lists]
    found, known = folds.kin(*given_columns), naive_kin(given_columns)
    np.testing.assert_array_equal(found[:, None] == found, known[:, None] == known)


def test_who_has_no_kin_is_alone() -> None:
    alone = np.full(5, -1)
    assert len(set(folds.kin(alone, alone))) == 5


class Witness(ClassifierMixin, BaseEstimator):
    """Predicts by chance, and remembers by number which samples it learned from and predicted."""

    def __init__(self) -> None:
        self.met: list[tuple[set[int], set[int]]] = []

    def fit(self, vectors: np.ndarray, labels: np.ndarray) -> "Witness":
        self.classes_ = np.unique(labels)
        self.learned = set(vectors[:, 0].astype(int))
        return self

    def predict_proba(self, vectors: np.ndarray) -> np.ndarray:
        self.met.append((self.learned, set(vectors[:, 0].astype(int))))
        return np.full((len(vectors), len(self.classes_)), 1 / len(self.classes_))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(0, 12))
def test_everyone_is_predicted_once_by_who_met_no_kin(seed: int, number: int, links: int) -> None:
    random = np.random.default_rng(seed)
    size = 60
    labels = np.arange(size) % 3
    groups = np.full(size, -1)
    groups[random.choice(size, 20)] = random.integers(0, 6, 20)
    twins = np.full(size, -1)
    twins[random.choice(size, 2 * links)] = np.repeat(np.arange(links), 2)
    families = folds.kin(groups, twins)
    trusted = np.where(random.random(size) < 0.2, -1, labels)
    witness = Witness()
    model = make_pipeline(witness)
    vectors = np.arange(size)[:, None]
    probabilities = folds.out_of_fold(model, vectors, labels, trusted, families, 3, folds=number, seed=seed)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    predicted = [i for _, asked in witness.met for i in asked]
    assert sorted(predicted) == list(range(size))
    for learned, asked in witness.met:
        assert not set(families[list(learned)]) & set(families[list(asked)])
        assert (trusted[list(learned)] >= 0).all()


def test_a_model_that_knows_its_samples_by_heart_knows_nothing_out_of_fold() -> None:
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(200, 20)), random.integers(0, 2, 200)
    model = folds.neighbours(vectors, 1)
    by_heart = folds.fit_predict(model, vectors, labels, vectors, 2).argmax(1)
    honest = folds.out_of_fold(model, vectors, labels, labels, np.arange(200), 2, folds=5, seed=0).argmax(1)
    assert (by_heart == labels).all()
    assert 0.35 < (honest == labels).mean() < 0.65


@pytest.mark.parametrize(
    "make",
    [lambda vectors: folds.linear(vectors, 5.0), lambda vectors: folds.neighbours(vectors, 5)],
    ids=["linear", "neighbours"],
)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_class_that_was_not_learned_has_probability_0(
    make: Callable[[folds.Vectors], Pipeline], sparse: bool
) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 3], 20)
    vectors: folds.Vectors = np.abs(random.normal(size=(40, 6))) + np.eye(6)[labels] * 5
    if sparse:
        vectors = scipy.sparse.csr_array(vectors)
    found = folds.fit_predict(make(vectors), vectors, labels, vectors, 5)
    assert found.shape == (40, 5)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found[:, [1, 2, 4]] == 0).all()
    assert (found.argmax(1) == labels).all()


def test_the_vote_is_the_naive_weighted_vote_by_cosine() -> None:
    random = np.random.default_rng(0)
    vectors, asked = random.normal(size=(30, 4)), random.normal(size=(5, 4))
    labels = random.integers(0, 3, 30)
    labels[:3] = range(3)
    scaled = [(v - vectors.mean(0)) / vectors.std(0) for v in (vectors, asked)]
    known, point = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in scaled)
    votes = np.zeros((5, 3))
    for i, distances in enumerate(1 - point @ known.T):
        for j in np.argsort(distances)[:4]:
            votes[i, labels[j]] += 1 / distances[j]
    found = folds.fit_predict(folds.neighbours(vectors, 4), vectors, labels, asked, 3)
    np.testing.assert_allclose(found, votes / votes.sum(1, keepdims=True), atol=1e-6)


def test_the_seed_decides_the_folds() -> None:
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(60, 4)), np.arange(60) % 2

    def predict(seed: int) -> np.ndarray:
        model = folds.linear(vectors, 1.0)
        return folds.out_of_fold(model, vectors, labels, labels, np.arange(60), 2, folds=3, seed=seed)

    assert np.array_equal(predict(0), predict(0))
    assert not np.array_equal(predict(0), predict(1))


def deal(labels: np.ndarray, families: np.ndarray, number: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(len(labels), 3))
    model = folds.linear(vectors, 1.0)
    classes = int(labels.max()) + 1
    return folds.out_of_fold(model, vectors, labels, labels, families, classes, folds=number, seed=0)


def test_more_folds_than_families_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(BadInput, match=r"5 folds need as many families.*not 3.*fewer folds"):
        deal(np.arange(60) % 2, np.arange(60) % 3, 5)


def test_more_folds_than_samples_of_any_class_is_an_error() -> None:
    with pytest.raises(BadInput, match="no class has a sample for each of 5 folds"):
        deal(np.arange(8) % 4, np.arange(8), 5)


def test_groups_that_are_classes_are_an_error() -> None:
    with pytest.raises(BadInput, match="of one class"):
        deal(np.repeat([0, 1], 20), np.repeat([0, 1], 20), 2)


def test_fewer_samples_than_neighbours_is_an_error() -> None:
    vectors, labels = np.eye(6), np.arange(6) % 2
    with pytest.raises(BadInput, match="6 samples to learn from are too few for 10 neighbours"):
        folds.fit_predict(folds.neighbours(vectors, 10), vectors, labels, vectors, 2)


def test_a_class_of_fewer_samples_than_folds_is_no_warning() -> None:
    # Warnings are errors.
    labels = np.array([0] * 20 + [1] * 20 + [2] * 2)
    assert deal(labels, np.arange(42), 5).shape == (42, 3)


def test_a_mixture_has_no_more_log_loss_than_its_best_part_or_any_even_mix():
    random = np.random.default_rng(0)
    good, poor = random.uniform(0.3, 1, 500), random.uniform(0, 0.6, 500)
    shares = folds.mixture([good, poor])

    def log_loss(weights):
        return -np.log(weights[0] * good + weights[1] * poor).mean()

    assert shares.sum() == pytest.approx(1)
    grid = [log_loss((w, 1 - w)) for w in np.linspace(0.01, 1, 100)]
    assert log_loss(shares) <= min(grid) + 1e-4


def test_a_predictor_that_knows_nothing_gets_no_share_beside_one_that_knows():
    knows, guesses = np.full(200, 0.9), np.full(200, 0.1)
    assert folds.mixture([knows, guesses]) == pytest.approx([1, 0], abs=1e-3)
