import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from winnow.data import intervals

counts = st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(count: tuple[int, int], level: float) -> None:
    hits, trials = count
    if trials:
        known = stats.binomtest(hits, trials).proportion_ci(level, method="wilson")
        np.testing.assert_allclose(intervals.wilson(hits, trials, level), (known.low, known.high), atol=1e-12)


@given(counts)
def test_wilson_holds_the_share_and_stays_between_0_and_1(count: tuple[int, int]) -> None:
    hits, trials = count
    low, high = intervals.wilson(hits, trials)
    assert 0 <= low <= hits / max(trials, 1) + 1e-12 and hits / max(trials, 1) - 1e-12 <= high <= 1


def test_wilson_of_a_textbook() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263, 15 of 148, 0 of 20.
    assert intervals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert intervals.wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert intervals.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_nothing_tried_says_nothing() -> None:
    assert intervals.wilson(0, 0) == (0.0, 1.0)
    assert intervals.measured("accuracy", []) == {
        "accuracy": 0.0, "accuracy_low": 0.0, "accuracy_high": 1.0,
    }  # fmt: skip


def test_a_measured_accuracy_is_three_flat_metrics() -> None:
    found = intervals.measured("accuracy", np.array([True] * 15 + [False] * 5))
    low, high = intervals.wilson(15, 20)
    assert found["accuracy"] == 0.75
    assert (found["accuracy_low"], found["accuracy_high"]) == (round(low, 6), round(high, 6))


def test_a_paired_difference_agrees_with_scipys_bootstrap() -> None:
    random = np.random.default_rng(0)
    first = random.random(300) < 0.8
    second = np.where(random.random(300) < 0.15, ~first, first)
    mean, low, high = intervals.paired_difference(first, second, seed=0)
    difference = second.astype(float) - first
    known = stats.bootstrap(
        (difference,), np.mean, n_resamples=9999, method="percentile", random_state=random
    ).confidence_interval
    assert mean == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((known.low, known.high), abs=0.006)


def test_a_paired_difference_is_narrower_than_that_of_two_samples() -> None:
    random = np.random.default_rng(0)
    first = random.random(400) < 0.8
    second = first.copy()
    second[:4] = ~second[:4]
    _, low, high = intervals.paired_difference(first, second, seed=0)
    unpaired = 2 * 1.96 * np.sqrt(2 * 0.8 * 0.2 / 400)
    assert high - low < unpaired / 4


def test_the_same_predictions_differ_by_nothing() -> None:
    same = np.array([True, False, True])
    assert intervals.paired_difference(same, same, seed=0) == (0.0, 0.0, 0.0)


def test_the_seed_decides_the_interval() -> None:
    random = np.random.default_rng(0)
    first, second = random.random((2, 100)) < 0.5
    once = intervals.paired_difference(first, second, seed=1, resamples=200)
    assert once == intervals.paired_difference(first, second, seed=1, resamples=200)
    assert once != intervals.paired_difference(first, second, seed=2, resamples=200)
