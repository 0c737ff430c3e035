import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from winnow.data.judging.guards import refuse_in_sample, refuse_other_order

CLASSES = ("ant", "bee", "cat", "dog")


def believed(labels: np.ndarray, accuracy: float, random: np.random.Generator) -> np.ndarray:
    """Give probabilities whose largest is that of the label, in so many cases."""
    says = np.where(random.random(len(labels)) < accuracy, labels, random.integers(0, 4, len(labels)))
    return 0.7 * np.eye(4)[says] + 0.3 * random.dirichlet(np.ones(4), len(labels))


@given(st.integers(0, 10**6), st.floats(0.0, 1.0), st.integers(40, 400))
def test_the_right_order_is_never_refused(seed: int, accuracy: float, size: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, size)
    refuse_other_order(labels, believed(labels, accuracy, random), CLASSES)


@given(st.integers(0, 10**6), st.permutations(range(4)).filter(lambda order: list(order) != [0, 1, 2, 3]))
def test_another_order_is_refused_even_of_two_classes(seed: int, order: list[int]) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, 200)
    with pytest.raises(ValueError, match="another order"):
        refuse_other_order(labels, believed(labels, 0.8, random)[:, order], CLASSES)


def test_the_refusal_names_the_classes() -> None:
    labels = np.arange(80) % 4
    judged = np.eye(4)[labels][:, [1, 0, 2, 3]]
    with pytest.raises(ValueError, match=r"column of 'bee' holds what is called 'ant'"):
        refuse_other_order(labels, judged, CLASSES)


def test_labels_with_much_confusion_of_a_pair_are_no_other_order() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(400) % 4
    true = np.where(random.random(400) < 0.4, (labels + 1) % 4, labels)
    refuse_other_order(labels, believed(true, 1.0, random), CLASSES)


def test_another_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="probabilities of 3 classes for labels of 4"):
        refuse_other_order(np.arange(4), np.eye(4)[:, :3], CLASSES)


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(), RandomForestClassifier(20, random_state=0), KNeighborsClassifier(5)],
    ids=["regression", "forest", "neighbours"],
)
def test_probabilities_of_a_model_that_has_seen_the_labels_are_refused(model) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    points = random.normal(size=(300, 4)) + 1.5 * np.eye(4)[labels]
    seen = model.fit(points, labels).predict_proba(points)
    with pytest.raises(ValueError, match="out of fold"):
        refuse_in_sample(seen, seen)
    refuse_in_sample(cross_val_predict(model, points, labels, cv=5, method="predict_proba"), seen)
