from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline, make_pipeline

from winnow.data import folds
from winnow.data.neighbours import Graph, Vectors
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
    fold = folds.deal(labels, families, number, seed)
    fold[random.choice(size, 5)] = -1  # these are of no concern
    dealt = np.flatnonzero(fold >= 0)
    witness = Witness()
    found = folds.out_of_fold(make_pipeline(witness), np.arange(size)[:, None], trusted, fold, 3)
    np.testing.assert_allclose(found[dealt].sum(1), 1, rtol=1e-6)
    assert (found[fold < 0] == 0).all()
    assert sorted(i for _, asked in witness.met for i in asked) == list(dealt)
    assert len(witness.met) == number
    for learned, asked in witness.met:
        assert not set(families[list(learned)]) & set(families[list(asked)])
        assert (trusted[list(learned)] >= 0).all() and (fold[list(learned)] >= 0).all()
        others = set(np.flatnonzero(trusted >= 0)) & set(dealt) - asked
        assert learned == others


def test_a_model_that_knows_its_samples_by_heart_knows_nothing_out_of_fold() -> None:
    random = np.random.default_rng(0)
    vectors, labels = random.normal(size=(200, 20)), random.integers(0, 2, 200)
    model = folds.neighbours(vectors, 1)
    by_heart = folds.fit_predict(model, vectors, labels, vectors, 2).argmax(1)
    fold = folds.deal(labels, np.arange(200), 5, seed=0)
    honest = folds.out_of_fold(model, vectors, labels, fold, 2).argmax(1)
    assert (by_heart == labels).all()
    assert 0.35 < (honest == labels).mean() < 0.65


@pytest.mark.parametrize(
    ("make", "sparse"),
    [
        (lambda vectors: folds.linear(vectors, 5.0), False),
        (lambda vectors: folds.linear(vectors, 5.0), True),
        (lambda vectors: folds.neighbours(vectors, 5), False),
        (lambda vectors: folds.neighbours(vectors, 5), True),
        (folds.counting, True),
    ],
    ids=["linear, dense", "linear, sparse", "neighbours, dense", "neighbours, sparse", "counting, sparse"],
)
def test_a_class_that_was_not_learned_has_probability_0(
    make: Callable[[Vectors], Pipeline], sparse: bool
) -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 3], 20)
    vectors: Vectors = np.abs(random.normal(size=(40, 6))) + np.eye(6)[labels] * 5
    if sparse:
        vectors = scipy.sparse.csr_array(vectors)
    found = folds.fit_predict(make(vectors), vectors, labels, vectors, 5)
    assert found.shape == (40, 5)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found[:, [1, 2, 4]] == 0).all()
    assert (found.argmax(1) == labels).all()


def test_neighbours_vote_by_cosine_and_near_ones_weigh_more() -> None:
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


def naive_counting(counts: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Rennie's complement naive Bayes: a class is what the words of all other classes are not."""

    def weighted(rows: np.ndarray) -> np.ndarray:
        idf = np.log((1 + len(counts)) / (1 + (counts > 0).sum(0))) + 1
        return rows * idf / np.linalg.norm(rows * idf, axis=1, keepdims=True)

    scores = []
    for label in np.unique(labels):
        elsewhere = weighted(counts)[labels != label].sum(0) + 0.3
        scores.append(-weighted(asked) @ np.log(elsewhere / elsewhere.sum()))
    likelihood = np.exp(np.stack(scores, 1) - np.max(scores, axis=0)[:, None])
    return likelihood / likelihood.sum(1, keepdims=True)


def test_counting_is_the_complement_naive_bayes_of_weighted_words() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(40) % 3
    counts = random.poisson(0.5 + 2 * np.eye(3)[labels].repeat(4, axis=1)).astype(float)
    asked = random.poisson(1.5, (7, 12)).astype(float)
    sparse = scipy.sparse.csr_array(counts)
    found = folds.fit_predict(folds.counting(sparse), sparse, labels, scipy.sparse.csr_array(asked), 3)
    np.testing.assert_allclose(found, naive_counting(counts, labels, asked), atol=1e-9)


def drawn_graph(size: int, k: int, random: np.random.Generator) -> Graph:
    index = np.stack([random.choice(np.delete(np.arange(size), i), k, replace=False) for i in range(size)])
    distance = np.sort(random.choice([0, 1e-9, 0.5, 1, 3], (size, k)), axis=1)
    return Graph(index.astype(np.int32), distance.astype(np.float32), "exact", None, 0)


@given(st.integers(0, 10**6))
def test_the_vote_is_the_naive_weighted_vote_of_those_in_other_folds(seed: int) -> None:
    random = np.random.default_rng(seed)
    graph = drawn_graph(20, 4, random)
    labels, fold = random.integers(-1, 3, 20), random.integers(-1, 3, 20)
    found = folds.vote(graph, labels, fold, 3)
    for i in range(20):
        votes = np.zeros(3)
        for j, distance in zip(graph.index[i], graph.distance[i], strict=True):
            if labels[j] >= 0 and fold[j] >= 0 and fold[j] != fold[i]:
                votes[labels[j]] += 1 / max(float(distance), 1e-6)
        known = (votes + 0.01 * votes.sum()) / (1.03 * votes.sum()) if votes.any() else np.full(3, 1 / 3)
        np.testing.assert_allclose(found[i], known, rtol=1e-4)


def test_a_twin_in_the_same_fold_is_not_heard() -> None:
    # Pairs of equal samples, each pair in one fold: the wrong label of a pair has no voter but the pair.
    graph = Graph(
        np.array([[1, 2], [0, 2], [3, 0], [2, 0]], np.int32),
        np.array([[0, 1], [0, 1], [0, 1], [0, 1]], np.float32),
        "exact", None, 0,
    )  # fmt: skip
    found = folds.vote(graph, np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]), 2)
    assert (found.argmax(1) == [0, 0, 1, 1]).all()


def test_where_nobody_votes_all_classes_have_even_shares_and_no_class_is_ever_impossible() -> None:
    graph = drawn_graph(12, 3, np.random.default_rng(0))
    labels = np.arange(12) % 4
    np.testing.assert_allclose(folds.vote(graph, labels, np.zeros(12, int), 4), 0.25)
    np.testing.assert_allclose(folds.vote(graph, np.full(12, -1), np.arange(12), 4), 0.25)
    assert folds.vote(graph, labels, np.arange(12), 4).min() > 0.005


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_families_are_dealt_whole_and_no_fold_is_empty(seed: int, number: int) -> None:
    random = np.random.default_rng(seed)
    size = random.integers(12, 60)
    labels = random.integers(0, random.integers(1, 6), size)
    labels[:number] = 0
    families = random.integers(0, random.integers(number, 2 * size), size)
    # One large family beside small ones is what fills a fold before the others.
    families[random.random(size) < random.choice([0, 0.6])] = families[0]
    families[-number:] = 1000 + np.arange(number)
    fold = folds.deal(labels, families, number, seed)
    assert set(fold) == set(range(number))
    for family in set(families):
        assert len(set(fold[families == family])) == 1


@given(st.lists(st.integers(1, 23), min_size=1, max_size=12), st.integers(2, 7), st.integers(0, 10**6))
def test_samples_without_kin_are_dealt_within_one_of_even_in_each_class_and_in_all(
    sizes: list[int], number: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    if number > max(sizes):
        labels = np.concatenate([labels, np.zeros(number, int)])
    fold = folds.deal(labels, np.arange(len(labels)), number, seed)
    for rows in (labels >= 0, *(labels == label for label in set(labels))):
        counts = np.bincount(fold[rows], minlength=number)
        assert counts.max() - counts.min() <= 1


def test_samples_without_kin_even_out_what_families_left_uneven() -> None:
    labels = np.repeat([0, 1], [60, 40])
    families = np.arange(100)
    families[:9], families[60:67], families[70:72] = 0, 60, 70
    fold = folds.deal(labels, families, 4, seed=0)
    for label, size in enumerate((60, 40)):
        assert (np.bincount(fold[labels == label], minlength=4) == size / 4).all()


def test_the_seed_decides_the_folds_of_families_and_of_who_has_none() -> None:
    labels, pairs = np.arange(60) % 2, np.arange(60) // 4
    for families in (np.arange(60), pairs, np.where(np.arange(60) < 30, pairs, 100 + np.arange(60))):
        first, again, other = (folds.deal(labels, families, 3, seed) for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_more_folds_than_families_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(BadInput, match=r"5 folds need as many families.*not 3.*fewer folds"):
        folds.deal(np.arange(60) % 2, np.arange(60) % 3, 5, seed=0)


def test_more_folds_than_samples_of_any_class_is_an_error() -> None:
    with pytest.raises(BadInput, match=r"no class has a sample for each of 5 folds.*fewer folds"):
        folds.deal(np.arange(8) % 4, np.arange(8), 5, seed=0)


def test_groups_that_are_classes_are_an_error() -> None:
    classes = np.repeat([0, 1], 20)
    fold = folds.deal(classes, classes, 2, seed=0)
    vectors = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(BadInput, match="of one class"):
        folds.out_of_fold(folds.linear(vectors, 1.0), vectors, classes, fold, 2)


def test_fewer_samples_than_neighbours_is_an_error() -> None:
    vectors, labels = np.eye(6), np.arange(6) % 2
    with pytest.raises(BadInput, match="6 samples to learn from are too few for 10 neighbours"):
        folds.fit_predict(folds.neighbours(vectors, 10), vectors, labels, vectors, 2)


@pytest.mark.parametrize("families", [np.arange(42), np.arange(42) // 2, np.arange(42) % 7])
def test_a_class_of_fewer_samples_than_folds_is_no_warning(families: np.ndarray) -> None:
    # Warnings are errors.
    labels = np.array([0] * 20 + [1] * 20 + [2] * 2)
    assert set(folds.deal(labels, families, 5, seed=0)) == set(range(5))


def test_relatives_of_rare_classes_alone_are_dealt_too() -> None:
    # Of those that have kin no class has a sample for each fold; the splitter would give up.
    labels = np.array([0] * 12 + [1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    families = np.concatenate([np.arange(12), 100 + np.arange(10) // 2])
    fold = folds.deal(labels, families, 5, seed=0)
    assert sorted(fold[12::2]) == list(range(5)) and (fold[12::2] == fold[13::2]).all()


def test_a_mixture_has_no_more_log_loss_than_its_best_part_or_any_even_mix() -> None:
    random = np.random.default_rng(0)
    good, poor = random.uniform(0.3, 1, 500), random.uniform(0, 0.6, 500)
    shares = folds.mixture([good, poor])

    def log_loss(weights: Sequence[float]) -> float:
        return -np.log(weights[0] * good + weights[1] * poor).mean()

    assert shares.sum() == pytest.approx(1)
    grid = [log_loss((w, 1 - w)) for w in np.linspace(0.01, 1, 100)]
    assert log_loss(shares) <= min(grid) + 1e-4


def test_a_predictor_that_knows_nothing_gets_no_share_beside_one_that_knows() -> None:
    knows, guesses = np.full(200, 0.9), np.full(200, 0.1)
    assert folds.mixture([knows, guesses]) == pytest.approx([1, 0], abs=1e-3)
