from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import average_precision_score, f1_score

from winnow.data.judging import issues, noise


def drawn(
    size: int, transition: np.ndarray, confidence: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw true labels from calibrated probabilities, and given labels from true ones."""
    random = np.random.default_rng(seed)
    classes = len(transition)
    clean = softmax(confidence * random.normal(size=(size, classes)), axis=1)
    true = (clean.cumsum(1) > random.random((size, 1))).argmax(1)
    given = (transition[true].cumsum(1) > random.random((size, 1))).argmax(1)
    return clean, true, given


def even(rate: float, classes: int) -> np.ndarray:
    transition = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(transition, 1 - rate)
    return transition


def pairs(rate: float, classes: int) -> np.ndarray:
    return (1 - rate) * np.eye(classes) + rate * np.roll(np.eye(classes), 1, axis=1)


def fitted(probabilities: np.ndarray, given: np.ndarray, seed: int = 0) -> noise.NoiseModel:
    return noise.fit(probabilities, given, issues.transition(given, probabilities), seed=seed)


def vague(probabilities: np.ndarray) -> np.ndarray:
    """Make calibrated probabilities as vague as those of a model that was held back."""
    root = np.sqrt(probabilities)
    return root / root.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", [even, pairs])
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.35])
def test_the_transition_that_made_the_labels_is_recovered(
    kind: Callable[[float, int], np.ndarray], rate: float
) -> None:
    transition = kind(rate, 4)
    clean, _, given = drawn(20_000, transition, 4.0, seed=1)
    model = fitted(vague(clean), given)
    assert model.transition == pytest.approx(transition, abs=0.06)
    assert model.sharpness == pytest.approx(2, abs=0.3)
    assert model.transition.sum(1) == pytest.approx(np.ones(4))


def test_a_model_that_imitates_the_noise_cannot_explain_it_away() -> None:
    random, transition = np.random.default_rng(0), pairs(0.4, 5)
    true = random.integers(5, size=10_000)
    given = (transition[true].cumsum(1) > random.random((10_000, 1))).argmax(1)
    # It learned that 4 of 10 labels are of the next class, and repeats that of every sample.
    imitated = softmax(np.log(transition[true] + 0.01) + 0.6 * random.normal(size=(10_000, 5)), axis=1)
    wrong = fitted(imitated, given).wrong(imitated, given)
    assert wrong.mean() > 0.2, "without the confident joint it is a twentieth"
    assert f1_score(true != given, wrong > 0.5) > 0.4


def test_probabilities_of_being_wrong_are_calibrated() -> None:
    clean, true, given = drawn(40_000, pairs(0.25, 5), 3.0, seed=3)
    judged = vague(clean)
    wrong = fitted(judged, given).wrong(judged, given)
    for low in np.arange(0, 1, 0.2):
        here = (wrong >= low) & (wrong < low + 0.2)
        assert (true != given)[here].mean() == pytest.approx(wrong[here].mean(), abs=0.1)


@pytest.mark.parametrize("confidence", [3.0, 6.0])
def test_it_sees_pairs_that_are_mixed_up_even_through_a_model_that_imitates_them(confidence: float) -> None:
    clean, true, given = drawn(20_000, pairs(0.2, 4), confidence, seed=4)
    imitated = clean @ pairs(0.2, 4)  # what a calibrated model of the given labels says
    wrong = fitted(imitated, given).wrong(imitated, given)
    doubt = 1 - imitated[np.arange(len(given)), given]
    assert average_precision_score(true != given, wrong) > average_precision_score(true != given, doubt) + 0.1
    assert f1_score(true != given, wrong > 0.5) > 0.4  # of a calibrated imitation that blames nothing: 0


def test_classes_that_look_alike_are_not_taken_for_wrong_labels() -> None:
    # Nobody can tell the first two classes apart, and all labels are right.
    random = np.random.default_rng(5)
    true = random.integers(0, 4, 20_000)
    clean = np.full((20_000, 4), 0.005)
    clean[np.arange(20_000), true] = 0.985
    alike = true < 2
    clean[alike] = np.where(np.arange(4) < 2, 0.495, 0.005)
    wrong = fitted(clean, true).wrong(clean, true)
    assert (wrong > 0.5).sum() == 0
    assert wrong.mean() < 0.15


def test_the_true_class_is_given_with_its_probability() -> None:
    clean, true, given = drawn(5_000, even(0.3, 3), 4.0, seed=6)
    belief = fitted(clean, given).true(clean, given)
    assert belief.sum(1) == pytest.approx(np.ones(5_000))
    assert (belief.argmax(1) == true).mean() > (clean.argmax(1) == true).mean()
    assert (belief.argmax(1) == true).mean() > (given == true).mean()


def test_very_many_samples_are_fitted_by_some_and_the_same_ones_each_time() -> None:
    clean, _, given = drawn(150_000, even(0.1, 3), 4.0, seed=7)
    first, second, other = (fitted(clean, given, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.transition, second.transition)
    assert not np.array_equal(first.transition, other.transition)
    assert first.transition == pytest.approx(other.transition, abs=0.02)


def test_a_known_sharpness_stays() -> None:
    clean, _, given = drawn(2_000, even(0.1, 3), 4.0, seed=8)
    assert noise.fit(clean, given, even(0.1, 3), seed=0, sharpness=1.7).sharpness == 1.7
