import io

import numpy as np
import pytest
import scipy.sparse
from cleanlab.count import num_label_issues
from cleanlab.filter import find_label_issues
from cleanlab.outlier import OutOfDistribution
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.datasets import load_digits

from winnow.data.judging import issues
from winnow.data.neighbours import Vectors, graph
from winnow.data.text import Text
from winnow.data.vision import Vision

VISION = Vision(size=28, patch=4, channels=1)


def probabilities(labels: np.ndarray, classes: int, sure: float = 0.9) -> np.ndarray:
    """Believe in every label as much, and in the other classes by a little chance."""
    random = np.random.default_rng(0)
    found = random.dirichlet(np.ones(classes), len(labels)) * (1 - sure)
    found[np.arange(len(labels)), labels] += sure
    return found


def planted(size: int = 300, classes: int = 4, wrong: int = 24) -> tuple[np.ndarray, ...]:
    """Give wrong labels for some, and beliefs in the true ones."""
    true = np.arange(size) % classes
    given = true.copy()
    rows = np.random.default_rng(1).choice(size, wrong, replace=False)
    given[rows] = (given[rows] + 1) % classes
    return given, probabilities(true, classes), rows


def test_planted_labels_are_flagged_by_all_detectors_and_counted() -> None:
    given, beliefs, rows = planted()
    found = issues.detect(given, beliefs, beliefs, 0)
    for flags in (found.by_margin, found.by_filter, found.by_neighbours):
        assert set(np.flatnonzero(flags)) == set(rows)
    assert found.off_diagonal == pytest.approx(24 / 300) == found.calibrated


@given(st.integers(0, 10**6))
def test_by_margin_is_the_calibrated_number_of_lowest_margins(seed: int) -> None:
    random = np.random.default_rng(seed)
    given = np.arange(120) % 3
    beliefs = random.dirichlet(np.ones(3), 120) + random.choice([0.3, 1.2]) * np.eye(3)[given]
    beliefs /= beliefs.sum(1, keepdims=True)
    found = issues.detect(given, beliefs, beliefs, 0)
    margin = beliefs[np.arange(120), given] - np.where(np.eye(3)[given] == 1, -np.inf, beliefs).max(1)
    count = num_label_issues(given, beliefs, estimation_method="off_diagonal_calibrated")
    assert found.calibrated == pytest.approx(count / 120)
    suspects = beliefs.argmax(1) != given
    assert found.by_margin.sum() == min(count, suspects.sum())
    assert (suspects | ~found.by_margin).all()
    kept = suspects & ~found.by_margin
    if found.by_margin.any() and kept.any():
        assert margin[found.by_margin].max() <= margin[kept].min()


def test_neighbours_flag_by_themselves() -> None:
    given, beliefs, rows = planted()
    voted = probabilities(given, 4)  # the neighbours believe what is given
    against, torn = np.setdiff1d(np.arange(300), rows)[:2]
    other = np.eye(4)[(given + 1) % 4]
    voted[against] = 0.02 * np.eye(4)[given[against]] + 0.98 * other[against]
    voted[torn] = 0.55 * other[torn] + 0.45 * np.eye(4)[given[torn]]
    found = issues.detect(given, beliefs, voted, 0)
    assert np.flatnonzero(found.by_neighbours).tolist() == [against]
    assert set(np.flatnonzero(found.by_margin)) == set(np.flatnonzero(found.by_filter)) == set(rows)
    pruned = find_label_issues(given, beliefs, filter_by="prune_by_noise_rate", n_jobs=1)
    np.testing.assert_array_equal(found.by_filter, pruned)


def test_neighbours_need_no_majority_where_two_labels_in_five_are_wrong() -> None:
    random = np.random.default_rng(0)
    true = random.integers(5, size=2000)
    given = np.where(random.random(2000) < 0.4, (true + random.integers(1, 5, 2000)) % 5, true)
    # Of 30 neighbours of the same class, as many have each label as the noise leaves them.
    votes = [random.multinomial(30, 0.1 + 0.5 * np.eye(5)[label]) for label in true]
    voted = np.array(votes) / 30
    found = issues.detect(given, voted, voted, 0).by_neighbours
    majority = (voted.max(1) > 0.5) & (voted.argmax(1) != given)
    wrong = given != true
    assert majority[wrong].mean() < 0.9 < 0.99 < found[wrong].mean()
    assert found[~wrong].mean() < 0.01


def test_a_class_of_a_sample_is_no_warning() -> None:
    # Warnings are errors.
    given, beliefs, rows = planted()
    given, beliefs = np.append(given, 4), np.pad(beliefs, ((0, 1), (0, 1)), constant_values=0.2)
    beliefs /= beliefs.sum(1, keepdims=True)
    assert issues.detect(given, beliefs, beliefs, 0).by_filter[rows].mean() > 0.9


def test_what_are_no_probabilities_is_an_error() -> None:
    given, beliefs, _ = planted()
    with pytest.raises(ValueError, match="do not sum to 1"):
        issues.detect(given, beliefs * 2, beliefs, 0)
    with pytest.raises(ValueError, match="4 classes, but labels of 3"):
        issues.detect(given[given < 3], beliefs[given < 3], beliefs[given < 3], 0)


def test_the_transition_is_what_was_planted() -> None:
    true = np.repeat([0, 1, 2], 200)
    given = true.copy()
    given[:40] = 1  # a fifth of class 0 is called 1
    beliefs = np.where(np.eye(3)[true] == 1, 0.9, 0.05)
    known = [[0.8, 0.2, 0], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(issues.transition(given, beliefs), known, atol=0.01)
    # Classes without a sample, here 0 and 4, keep their labels.
    more = np.eye(5)
    more[1:4, 1:4] = known
    wide = np.pad(beliefs * 0.98, ((0, 0), (1, 1)), constant_values=0.01)
    np.testing.assert_allclose(issues.transition(given + 1, wide), more, atol=0.01)


def test_of_a_single_class_every_label_stays() -> None:
    np.testing.assert_array_equal(issues.transition(np.ones(5, int), np.full((5, 3), 1 / 3)), np.eye(3))


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(3, 50), st.sampled_from([0.05, 0.3, 1, 3]))
def test_every_row_of_a_transition_is_a_distribution(
    seed: int, classes: int, size: int, vague: float
) -> None:
    # Among few samples there are classes that no confident one belongs to.
    random = np.random.default_rng(seed)
    beliefs = random.dirichlet(np.full(classes, vague), size)
    found = issues.transition(random.integers(0, classes, size), beliefs)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1)


def crowd(extra: np.ndarray, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(300 - len(extra), extra.shape[1]))
    return np.concatenate([points, extra])


def look(vectors: Vectors, k: int = 10) -> issues.Neighbourhood:
    """Look at vectors as the audit does."""
    found = graph(issues.comparable(vectors), k=k, exact_up_to=10_000, seed=0)
    return issues.neighbourhood(found, near_fraction=0.13)


@pytest.mark.parametrize("offset", [0.0, 100.0], ids=["centred", "shifted"])
def test_what_is_far_from_all_others_is_an_outlier(offset: float) -> None:
    far = 12 * np.eye(6)[:5]
    found = look(crowd(far) + offset)
    assert found.outlier[-5:].all()
    assert found.outlier[:-5].sum() <= 6
    assert found.outlier_score[-5:].max() < np.delete(found.outlier_score, range(-5, 0)).min()


def test_an_outlier_in_the_direction_of_the_others_is_one_too() -> None:
    # Far along the same ray: only the angle would not tell.
    vectors = crowd(np.empty((0, 6))) + 5
    vectors[0] *= 6
    assert look(vectors).outlier[0]


def test_scores_are_cleanlabs() -> None:
    vectors = crowd(12 * np.eye(3))
    vectors /= vectors.std(0)
    detector = OutOfDistribution(params={"k": 10})  # by Euclidean distance, in three dimensions
    np.testing.assert_allclose(
        look(vectors).outlier_score, detector.fit_score(features=vectors, verbose=False), atol=1e-6
    )


def test_units_of_features_do_not_matter_unless_they_hardly_vary() -> None:
    vectors = crowd(12 * np.eye(6)[:5])
    found, changed = look(vectors), look(vectors * [1e-3, 1, 1, 1, 1e4, 1] + 7)
    assert found.outlier[-5:].all() and changed.outlier[[-4, -3, -2, -1]].all()
    # One sample in which a feature that is otherwise constant moves a little is no outlier.
    still = np.concatenate([vectors, np.zeros((300, 1))], axis=1)
    still[0, -1] = 0.1
    assert look(still).outlier[0] == found.outlier[0]


def noisy_digits(number: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Descriptors of real digits, with images of random noise behind them."""
    random = np.random.default_rng(0)
    digits = np.round(load_digits().images[:600] * 255 / 16).astype(np.uint8)
    noise = random.integers(0, 256, (number, 28, 28), dtype=np.uint8)
    images = [*digits, *noise]
    return np.stack([described(image) for image in images]), images


def described(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return VISION.descriptor(VISION.decode(file.getvalue()).payload)


@pytest.mark.parametrize("number", [1, 5, 17])
def test_noise_among_digits_is_found_even_if_there_are_more_than_neighbours(number: int) -> None:
    vectors, _ = noisy_digits(number)
    found = look(vectors)
    assert found.outlier[600:].all()
    assert found.outlier[:600].mean() < 0.02


def test_digits_with_a_breath_of_noise_are_near_duplicates_and_different_digits_are_not() -> None:
    vectors, images = noisy_digits(0)
    random = np.random.default_rng(0)
    chosen = random.choice(600, 30, replace=False)
    twins = [
        described(np.clip(images[i] + random.normal(0, 1, (8, 8)), 0, 255).astype(np.uint8)) for i in chosen
    ]
    found = look(np.concatenate([vectors, twins])).near_set
    together = (found[600:] >= 0) & (found[600:] == found[chosen])
    assert together.mean() >= 0.9
    assert (found[:600] >= 0).sum() <= 30 + 6


def test_gibberish_among_texts_is_an_outlier_and_a_text_less_a_word_is_a_near_duplicate() -> None:
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdefgh"), 5)) for _ in range(60)]
    texts = [" ".join(random.choice(words, 12)) for _ in range(200)]
    strange = [" ".join("".join(random.choice(list("uvwxyz"), 6)) for _ in range(12))]
    twin = [texts[7].rsplit(" ", 1)[0]]
    text = Text(length=16, vocabulary=64)
    dense = np.stack([text.descriptor(t.encode()) for t in [*texts, *strange, *twin]])
    found = look(scipy.sparse.csr_array(dense))
    assert found.outlier[200]
    assert not found.outlier[:200].any()
    assert found.near_set[201] == found.near_set[7] >= 0
    assert (found.near_set >= 0).sum() == 2


def test_near_duplicates_are_what_a_naive_loop_finds() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 3))
    vectors[:40] = vectors[100:140] + random.normal(0, 0.01, (40, 3))
    found = look(vectors).near_set
    scaled = vectors / np.maximum(vectors.std(0), np.median(vectors.std(0)))
    square = ((scaled[:, None] - scaled) ** 2).sum(2)
    np.fill_diagonal(square, np.inf)
    near = square < 0.13 * np.median(np.sqrt(square.min(1))) ** 2
    assert ((found >= 0) == near.any(1)).all()
    for i, j in zip(*np.nonzero(near), strict=True):
        assert found[i] == found[j]


def test_near_sets_are_numbered_by_first_member_and_nearness_is_passed_on() -> None:
    vectors = crowd(np.empty((0, 6)))
    vectors[[250, 20]] = vectors[5] + np.array([[0.1], [0.2]]) * np.eye(6)[0]
    vectors[4] = vectors[8] + 0.01
    found = look(vectors).near_set
    assert found[[4, 8]].tolist() == [0, 0] and found[[5, 20, 250]].tolist() == [1, 1, 1]
    assert (found >= 0).sum() == 5


def test_a_larger_fraction_calls_more_samples_near() -> None:
    found = graph(crowd(np.empty((0, 6))).astype(np.float32), k=10, exact_up_to=1000, seed=0)
    near = [(issues.neighbourhood(found, fraction).near_set >= 0) for fraction in (0.01, 0.4, 1.2)]
    assert near[0].sum() < near[1].sum() < near[2].sum()
    assert not (near[0] & ~near[1]).any() and not (near[1] & ~near[2]).any()


@given(arrays(float, (14, 3), elements=st.floats(-5, 5)))
def test_any_vectors_have_finite_scores(vectors: np.ndarray) -> None:
    found = look(vectors, k=3)
    assert ((found.outlier_score >= 0) & (found.outlier_score <= 1)).all()


def test_features_that_vary_weigh_the_same_and_those_that_hardly_do_less() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(5, [1, 10, 100, 1e-3, 0], (500, 5))
    found = issues.comparable(vectors)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    spread = found.std(axis=0)
    np.testing.assert_allclose(spread[1:3], 1, rtol=1e-3)
    assert spread[3] < 1e-3 and len(set(found[:, 4])) == 1
    still = np.full((4, 2), 7.0)
    np.testing.assert_array_equal(issues.comparable(still), still)


def test_sparse_vectors_are_brought_to_one_length_and_rare_words_count_more() -> None:
    counts = np.array([[3, 3, 0], [1, 0, 2], [5, 0, 0], [2, 0, 1]], float)
    found = issues.comparable(scipy.sparse.csr_array(counts))
    assert scipy.sparse.issparse(found)
    dense = found.toarray()
    np.testing.assert_allclose(np.linalg.norm(dense, axis=1), 1)
    assert dense[0, 1] > dense[0, 0] > 0  # as often, but in one text only
    np.testing.assert_array_equal(dense > 0, counts > 0)
