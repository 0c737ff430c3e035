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

from winnow.data import issues
from winnow.data.stage import BadInput
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


def test_planted_labels_are_flagged_and_corrected_by_all_detectors() -> None:
    given, beliefs, rows = planted()
    found = issues.label_issues(given, beliefs, beliefs)
    assert set(np.flatnonzero(found.flagged)) == set(rows)
    assert (found.suggested[rows] == (given[rows] - 1) % 4).all()
    assert (found.detectors[rows] == 3).all()
    assert found.quality[rows].max() < np.delete(found.quality, rows).min()
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    np.testing.assert_allclose(found.confidence, beliefs.max(1))


@given(st.integers(0, 10**6))
def test_what_is_flagged_is_the_calibrated_number_of_lowest_margins(seed: int) -> None:
    random = np.random.default_rng(seed)
    given = np.arange(120) % 3
    beliefs = random.dirichlet(np.ones(3), 120) + 1.2 * np.eye(3)[given]
    beliefs /= beliefs.sum(1, keepdims=True)
    found = issues.label_issues(given, beliefs, beliefs)
    mine = beliefs[np.arange(120), given]
    other = np.where(np.eye(3)[given] == 1, -np.inf, beliefs).max(1)
    np.testing.assert_allclose(found.quality, (mine - other + 1) / 2)
    count = num_label_issues(given, beliefs, estimation_method="off_diagonal_calibrated")
    suspects = beliefs.argmax(1) != given
    assert found.flagged.sum() == min(count, suspects.sum())
    assert (suspects | ~found.flagged).all()
    kept = suspects & ~found.flagged
    if found.flagged.any() and kept.any():
        assert found.quality[found.flagged].max() <= found.quality[kept].min()


def test_a_detector_for_each_of_ranking_pruning_and_the_neighbours() -> None:
    given, beliefs, rows = planted()
    voted = probabilities(given, 4)  # the neighbours believe what is given
    doubtful = np.setdiff1d(np.arange(300), rows)[0]
    voted[doubtful] = np.eye(4)[(given[doubtful] + 1) % 4]
    found = issues.label_issues(given, beliefs, voted)
    pruned = find_label_issues(given, beliefs, filter_by="prune_by_noise_rate", n_jobs=1)
    np.testing.assert_array_equal(
        found.detectors,
        found.flagged.astype(int) + pruned + (np.arange(300) == doubtful),
    )


def test_what_are_no_probabilities_is_an_error() -> None:
    given, beliefs, _ = planted()
    with pytest.raises(ValueError, match="do not sum to 1"):
        issues.label_issues(given, beliefs * 2, beliefs)
    with pytest.raises(ValueError, match="4 classes, but labels of 3"):
        issues.label_issues(given[given < 3], beliefs[given < 3], beliefs[given < 3])


def test_noise_of_a_class_is_what_was_planted_in_it() -> None:
    true = np.repeat([0, 1, 2], 200)
    given = true.copy()
    given[:40] = 1  # a fifth of class 0 is called 1: 40 of the 240 that are called 1 are wrong
    beliefs = np.where(np.eye(3)[true] == 1, 0.9, 0.05)
    noise = issues.class_noise(given, beliefs)
    assert noise == pytest.approx([0, 40 / 240, 0], abs=0.01)


@given(st.lists(st.binary(max_size=1), max_size=12))
def test_exact_sets_are_equal_payloads_numbered_by_first_member(payloads: list[bytes]) -> None:
    found = issues.exact_sets(payloads)
    known, numbers = [], {}
    for payload in payloads:
        if payloads.count(payload) == 1:
            known.append(-1)
        else:
            known.append(numbers.setdefault(payload, len(numbers)))
    assert found.tolist() == known


ALONE = np.full(300, -1)


def crowd(extra: np.ndarray, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(300 - len(extra), extra.shape[1]))
    return np.concatenate([points, extra])


def look(vectors: issues.Vectors, exact: np.ndarray = ALONE, k: int = 10) -> issues.Neighbourhood:
    return issues.neighbourhood(vectors, exact, k=k, near_fraction=0.13)


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
    found = look(vectors, np.full(len(vectors), -1))
    assert found.outlier[600:].all()
    assert found.outlier[:600].mean() < 0.02


def test_digits_with_a_breath_of_noise_are_near_duplicates_and_different_digits_are_not() -> None:
    vectors, images = noisy_digits(0)
    random = np.random.default_rng(0)
    chosen = random.choice(600, 30, replace=False)
    twins = [
        described(np.clip(images[i] + random.normal(0, 1, (8, 8)), 0, 255).astype(np.uint8)) for i in chosen
    ]
    found = look(np.concatenate([vectors, twins]), np.full(630, -1)).near_set
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
    found = look(scipy.sparse.csr_array(dense), np.full(202, -1))
    assert found.outlier[200]
    assert not found.outlier[:200].any()
    assert found.near_set[201] == found.near_set[7] >= 0
    assert (found.near_set >= 0).sum() == 2


def test_sparse_and_dense_vectors_have_the_same_neighbours() -> None:
    vectors = np.maximum(crowd(8 * np.eye(6)[:5]), 0)
    vectors /= vectors.std(0)
    dense, sparse = look(vectors), look(scipy.sparse.csr_array(vectors))
    np.testing.assert_allclose(dense.outlier_score, sparse.outlier_score, atol=1e-6)
    assert (dense.near_set == sparse.near_set).all() and (dense.outlier == sparse.outlier).all()


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


def test_equal_samples_count_once_and_share_what_is_said_of_them() -> None:
    # Most are copies: their zero distances would be the median, and nothing would be near or far.
    random = np.random.default_rng(0)
    different = random.normal(size=(60, 3))
    different[0] = 40.0
    different[1] = different[2] + 1e-3
    copies = np.repeat(np.arange(60), 5)
    found = look(different[copies], copies)
    once = look(different, np.full(60, -1))
    for part, known in zip(found, once, strict=True):
        np.testing.assert_array_equal(part, known[copies])
    assert once.outlier[0] and once.near_set[1] == once.near_set[2] >= 0


def test_the_first_of_a_set_need_not_be_the_first_of_all() -> None:
    vectors = crowd(np.zeros((2, 4)))
    exact = ALONE.copy()
    exact[[5, 9]] = 0
    vectors[9] = vectors[5]
    found = look(vectors, exact)
    assert found.outlier_score[5] == found.outlier_score[9] > 0


@given(arrays(float, (14, 3), elements=st.floats(-5, 5)))
def test_any_vectors_have_finite_scores(vectors: np.ndarray) -> None:
    found = look(vectors, np.full(14, -1), k=3)
    assert ((found.outlier_score >= 0) & (found.outlier_score <= 1)).all()


def test_fewer_different_samples_than_neighbours_is_an_error_with_both_numbers() -> None:
    with pytest.raises(BadInput, match="2 different samples are too few for 10 neighbours"):
        look(np.zeros((12, 3)), np.array([0] * 11 + [-1]))
