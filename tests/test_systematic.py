import numpy as np
import pytest

from winnow.data import folds, neighbours
from winnow.data.judging import systematic
from winnow.data.judging.systematic import Systematic

CLASSES, GROUPS, EACH = 5, 6, 20


def spoken(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw points around a centre for each class, moved by the manner of each group."""
    random = np.random.default_rng(seed)
    true = np.tile(np.repeat(np.arange(CLASSES), EACH), GROUPS)
    group = np.repeat(np.arange(GROUPS), CLASSES * EACH)
    manner = random.normal(0, 1.2, (GROUPS, 16))
    vectors = 5 * np.eye(16)[true] + manner[group] + random.normal(0, 1, (len(true), 16))
    return vectors.astype(np.float32), true, group


def looked(vectors: np.ndarray, labels: np.ndarray, group: np.ndarray) -> Systematic:
    """Judge each group by models of the others."""
    known = np.where(group < 0, GROUPS, group)
    apart = folds.out_of_fold(folds.linear(vectors, 3.0), vectors, labels, known, CLASSES)
    graph = neighbours.graph(vectors, k=15, exact_up_to=10_000, seed=0)
    return systematic.look(apart, labels, group, graph)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_that_one_group_calls_another_is_found_and_named(seed: int) -> None:
    vectors, true, group = spoken(seed)
    wrong = (group == 2) & (true == 3)
    labels = np.where(wrong, 1, true)
    found = looked(vectors, labels, group)
    (cell,) = found.cells
    assert (cell["group"], cell["label"], cell["suggested"]) == (2, 1, 3)
    assert cell["n"] >= 0.7 * EACH
    assert cell["probability"] >= 2 / 3
    assert (found.wrong[wrong] > 0.5).mean() >= 0.7
    assert not found.wrong[~wrong].any()
    assert (found.suggested[found.wrong > 0] == 3).all()


def test_two_classes_that_one_group_swaps_are_found() -> None:
    vectors, true, group = spoken(0)
    swapped = (group == 4) & (true < 2)
    found = looked(vectors, np.where(swapped, 1 - true, true), group)
    assert {(cell["group"], cell["label"], cell["suggested"]) for cell in found.cells} == {
        (4, 0, 1),
        (4, 1, 0),
    }
    assert (found.wrong[swapped] > 0.5).mean() > 0.7


@pytest.mark.parametrize("rate", [0.0, 0.15])
def test_nothing_is_found_where_labels_are_right_or_wrong_at_random(rate: float) -> None:
    for seed in range(8):
        vectors, true, group = spoken(seed)
        random = np.random.default_rng(seed)
        other = (true + random.integers(1, CLASSES, len(true))) % CLASSES
        labels = np.where(random.random(len(true)) < rate, other, true)
        found = looked(vectors, labels, group)
        assert found.cells == []
        assert not found.wrong.any()


def test_a_group_that_has_few_classes_is_left_alone() -> None:
    vectors, true, group = spoken(1)
    kept = (group != 5) | (true == 0)  # the last one says one word
    found = looked(vectors[kept], true[kept], group[kept])
    assert found.cells == []


def test_without_large_groups_it_says_why_it_did_not_look() -> None:
    vectors, true, group = spoken(1)
    graph = neighbours.graph(vectors, k=15, exact_up_to=10_000, seed=0)
    even = np.full((len(true), CLASSES), 1 / CLASSES)
    found = systematic.look(even, true, np.full_like(group, -1), graph)
    assert "no group has" in found.reason
    assert found.cells == []
