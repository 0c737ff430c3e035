from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from winnow.data.batches import UNLABELLED
from winnow.data.intervals import wilson
from winnow.ssl import arms, gains


def outcomes(
    random: np.random.Generator, shares: list[float], seeds: int, samples: int, wander: float = 0.1
) -> np.ndarray:
    """Draw what arms get right: samples are easy or hard for all arms, and luck differs from seed to seed."""
    ease = random.uniform(-0.3, 0.3, samples)
    luck = random.normal(0, wander, (len(shares), seeds, 1))
    chance = np.clip(np.array(shares)[:, None, None] + ease + luck, 0, 1)
    return random.random((len(shares), seeds, samples)) < chance


def contrast(spread: gains.Spread) -> np.ndarray:
    """The second arm less the first."""
    return np.eye(len(spread.by_seeds))[1] - np.eye(len(spread.by_seeds))[0]


def error(correct: np.ndarray, unit: np.ndarray) -> float:
    """The standard error of the only arm's accuracy."""
    return float(np.sqrt(gains.spread(correct, unit).of(np.ones(1))[0]))


def test_equal_arms_differ_by_exactly_nothing() -> None:
    one = outcomes(np.random.default_rng(0), [0.7], 5, 40)
    spread = gains.spread(np.repeat(one, 2, axis=0), np.arange(40))
    assert gains.gain(0.0, contrast(spread), spread) == {
        "value_points": 0.0, "low_points": 0.0, "high_points": 0.0, "verdict": "no measurable gain",
    }  # fmt: skip


def test_where_seeds_agree_the_error_is_that_of_a_share() -> None:
    correct = np.zeros((1, 3, 400), bool)
    correct[:, :, :100] = True
    assert error(correct, np.arange(400)) == pytest.approx(np.sqrt(0.25 * 0.75 / 399), rel=1e-6)


def test_where_samples_agree_the_error_is_that_of_a_mean_over_seeds() -> None:
    correct = np.zeros((1, 4, 50), bool)
    correct[:, :2] = True  # two seeds get all, two get none: variance 1/3, of the mean 1/12
    spread = gains.spread(correct, np.arange(50))
    assert spread.of(np.ones(1)) == pytest.approx((1 / 12, stats.t.ppf(0.975, 3)))


def test_independent_outcomes_are_counted_once_each() -> None:
    """Neither seeds nor samples matter: the error is that of all outcomes together, on average."""
    random = np.random.default_rng(0)
    found = [error(random.random((1, 6, 90)) < 0.5, np.arange(90)) ** 2 for _ in range(200)]
    assert 1 <= np.mean(found) / (0.25 / 540) < 1.5  # parts below zero are taken as zero


def test_samples_of_a_group_are_one_fact() -> None:
    """Fifty copies of eight groups are as uncertain as eight samples."""
    of_group = np.array([1, 1, 1, 0, 1, 0, 1, 1], bool)
    correct = np.broadcast_to(np.repeat(of_group, 50), (1, 2, 400))
    copies = error(correct, np.repeat(np.arange(8), 50))
    assert copies == pytest.approx(error(correct[:, :, ::50], np.arange(8)))
    assert copies > 5 * error(correct, np.arange(400))


def test_the_numbers_of_units_and_of_arms_do_not_matter() -> None:
    correct = outcomes(np.random.default_rng(0), [0.5, 0.7], 4, 60)
    unit = np.arange(60) // 3
    spread = gains.spread(correct, unit)
    turned = gains.spread(correct[::-1], 19 - unit)
    assert spread.of(contrast(spread)) == pytest.approx(turned.of(contrast(turned)))


@pytest.mark.parametrize(("seeds", "samples", "wander"), [(3, 200, 0.1), (20, 60, 0.03), (4, 400, 0.0)])
def test_nothing_is_called_a_gain_or_a_loss_more_often_than_one_time_in_twenty(
    seeds: int, samples: int, wander: float
) -> None:
    """Of arms that are equally good; the bound is that of 400 experiments, three standard errors away."""
    random = np.random.default_rng(seeds)
    wrong = 0
    for _ in range(400):
        correct = outcomes(random, [0.6, 0.6], seeds, samples, wander)
        spread = gains.spread(correct, np.arange(samples))
        value = correct[1].mean() - correct[0].mean()
        wrong += gains.gain(value, contrast(spread), spread)["verdict"] != "no measurable gain"
    assert 0.01 < wrong / 400 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_gain_is_found_and_harm_is_said_as_plainly() -> None:
    correct = outcomes(np.random.default_rng(0), [0.5, 0.7], 10, 300, wander=0.03)
    spread = gains.spread(correct, np.arange(300))
    value = correct[1].mean() - correct[0].mean()
    found = gains.gain(value, contrast(spread), spread)
    assert found["verdict"] == "gain"
    assert 10 < found["low_points"] < 20 < found["high_points"] < 30
    assert gains.gain(-value, -contrast(spread), spread)["verdict"] == "loss"


@pytest.mark.parametrize("shape", [(1, 1, 9), (1, 3, 1)])
def test_what_has_no_spread_has_no_interval(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no spread"):
        gains.spread(np.ones(shape, bool), np.arange(shape[2]))


def between(part: float, whole: float, covariance: np.ndarray) -> dict[str, float] | None:
    """The share of two gains that have these covariances, from very many seeds and units."""
    spread = gains.Spread(covariance / 2, covariance / 2, 1000, 1000)
    return gains.share_of(part, whole, np.array([1.0, 0.0]), np.array([0.0, 1.0]), spread)


def test_the_share_of_everything_is_one_and_of_nothing_none() -> None:
    one = {name: pytest.approx(1.0, abs=1e-5) for name in ("value", "low", "high")}
    assert between(0.1, 0.1, np.full((2, 2), 1e-4)) == one
    nothing = between(0.0, 0.1, np.array([[0, 0], [0, 1e-4]]))
    assert nothing == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_interval_of_a_share_holds_the_true_one_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(0)
    held, covariance = 0, np.array([[4e-4, 1e-4], [1e-4, 3e-4]])
    for part, whole in random.multivariate_normal([0.06, 0.1], covariance, size=1000):
        found = between(part, whole, covariance)
        held += found is not None and found["low"] <= 0.6 <= found["high"]
    assert held / 1000 == pytest.approx(0.95, abs=0.025)


def test_there_is_no_share_of_what_may_be_nothing() -> None:
    assert between(0.01, 0.02, np.diag([1e-4, 4e-4])) is None
    assert between(0.01, -0.1, np.diag([1e-4, 1e-4])) is None


def test_groups_count_where_there_are_enough_of_them() -> None:
    few = pd.Series(["a", "b", "a", None])
    assert gains.units(few).kind == "sample"
    assert gains.units(few).number.tolist() == [0, 1, 2, 3]
    many = pd.Series([*"abcdea", None, None], index=range(10, 18))
    kind, number = gains.units(many)
    assert (kind, number.tolist()) == ("group", [0, 1, 2, 3, 4, 0, 5, 6])


def test_describes_arms_gains_and_what_is_absent() -> None:
    delivered = np.array([0, 1, 0, 1, UNLABELLED])
    dropped, mended = np.array([0, UNLABELLED, 0, 1, UNLABELLED]), np.array([0, 0, 0, 1, 1])
    plan = arms.plan(delivered, {1: dropped, 2: mended}, None)
    assert [arm.name for arm in plan.arms] == ["delivered", "round@1", "random_drop@1", "round@2"]
    correct = outcomes(np.random.default_rng(0), [0.4, 0.9, 0.4, 0.9], 4, 80, wander=0.01)
    found = gains.describe("probe", plan, correct, np.arange(80))
    about = [(arm["n"], arm["dropped"], arm["relabelled"]) for arm in found["arms"]]
    assert about == [(4, 0, 0), (3, 1, 0), (3, 1, 0), (5, 0, 2)]
    for arm, rows in zip(found["arms"], correct, strict=True):
        assert arm["accuracies"] == pytest.approx(rows.mean(1).tolist())
        assert arm["low"] < arm["mean"] < arm["high"]
    assert {one["arm"] for one in found["absent"]} == {"random_drop@2", "oracle"}
    verdicts = {(one["arm"], one["against"]): one["verdict"] for one in found["gains"]}
    assert verdicts == {
        ("round@1", "delivered"): "gain",
        ("round@1", "random_drop@1"): "gain",
        ("random_drop@1", "delivered"): "no measurable gain",
        ("round@2", "delivered"): "gain",
        ("round@2", "round@1"): "no measurable gain",
    }
    assert [(one["arm"], one["status"]) for one in found["recovery"]] == [
        ("round@1", "skipped"), ("round@2", "skipped"),
    ]  # fmt: skip


def test_more_seeds_narrow_the_interval() -> None:
    """Of the same spread."""
    errors = []
    for seeds in (2, 8, 32):
        correct = np.zeros((1, seeds, 100), bool)
        correct[:, ::2] = True
        errors.append(error(correct, np.arange(100)))
    assert all(wide > narrow for wide, narrow in pairwise(errors))


def test_an_arm_that_gets_all_right_is_not_sure_to() -> None:
    plan = arms.Plan([arms.Arm("delivered", np.zeros(3, int))], {})
    (arm,) = gains.describe("probe", plan, np.ones((1, 2, 20), bool), np.arange(20))["arms"]
    assert (arm["mean"], arm["low"], arm["high"]) == (1.0, pytest.approx(wilson(20, 20)[0], abs=1e-6), 1.0)
