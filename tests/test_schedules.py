import math
from typing import Any

import pytest

from winnow.compress.schedules import Constant, ConstantSparsity, Polynomial, PolynomialDecay

TUTORIAL = {"begin": 2000, "end": 5628, "frequency": 100, "power": 3.0, "initial": 0.5, "final": 0.9}
TABLE: list[dict[str, Any]] = [
    TUTORIAL,  # TensorFlow's MNIST tutorial of 2019
    TUTORIAL | {"begin": 0, "end": 844, "final": 0.8},  # and the one of today
    {"begin": 0, "end": 100, "frequency": 100, "power": 1.0, "initial": 0.0, "final": 0.99},
    {"begin": 7, "end": 61, "frequency": 6, "power": 0.5, "initial": 0.1, "final": 0.2},
    {"begin": 1, "end": 2, "frequency": 1, "power": 8.0, "initial": 0.3, "final": 0.3},
]


def tensorflow_should_prune(step: int, begin: int, end: int, frequency: int) -> bool:
    """As the pruning API documents it; `end` below 0 is never."""
    in_range = step >= begin and (step <= end or end < 0)
    return in_range and math.fmod(step - begin, frequency) == 0


@pytest.mark.parametrize("numbers", TABLE)
def test_polynomial_decay_is_tensorflows_at_every_step_but_sure_of_its_end(numbers: dict[str, Any]) -> None:
    decay, (begin, end) = PolynomialDecay(**numbers), (numbers["begin"], numbers["end"])
    for step in range(end + 300):
        progress = min(1.0, max(0.0, (step - begin) / (end - begin)))
        fall = (numbers["initial"] - numbers["final"]) * (1 - progress) ** numbers["power"]
        assert decay.sparsity(step) == pytest.approx(fall + numbers["final"], abs=1e-12)
        expected = tensorflow_should_prune(step, begin, end, numbers["frequency"])
        assert decay.should_prune(step) == (expected or step == end)
    assert decay.sparsity(end) == numbers["final"]


@pytest.mark.parametrize(("begin", "end", "frequency"), [(0, 40, 10), (3, 40, 10), (5, None, 7), (6, 6, 3)])
def test_constant_sparsity_is_tensorflows(begin: int, end: int | None, frequency: int) -> None:
    constant = ConstantSparsity(begin=begin, end=end, frequency=frequency, final=0.4)
    for step in range(200):
        expected = tensorflow_should_prune(step, begin, -1 if end is None else end, frequency)
        assert constant.should_prune(step) == expected
        assert constant.sparsity(step) == 0.4


def test_the_first_mask_of_a_run_comes_after_as_many_steps_as_the_frequency() -> None:
    # Steps count from 1, there as here: what begins at 0 prunes nothing before step 100.
    decay = PolynomialDecay(**TUTORIAL | {"begin": 0})
    assert next(step for step in range(1, 999) if decay.should_prune(step)) == 100


@pytest.mark.parametrize(("step", "sparsity"), [(0, 0.2), (100, 0.2), (200, 0.5), (300, 0.8), (999, 0.8)])
def test_a_power_of_one_is_a_straight_line(step: int, sparsity: float) -> None:
    decay = PolynomialDecay(begin=100, end=300, frequency=10, power=1.0, initial=0.2, final=0.8)
    assert decay.sparsity(step) == pytest.approx(sparsity)


def test_prunes_at_multiples_of_the_frequency_and_at_both_ends() -> None:
    decay = PolynomialDecay(begin=5, end=20, frequency=5, power=3.0, initial=0.0, final=0.5)
    assert [step for step in range(40) if decay.should_prune(step)] == [5, 10, 15, 20]


def test_masks_are_refreshed_beyond_the_ramp_and_then_rest() -> None:
    # Prune Once for All's two windows, a thousandth as long: the ramp to 50, refreshes to 80, of 100 steps.
    decay = PolynomialDecay(begin=0, end=50, refresh=80, frequency=20, power=3.0, initial=0.0, final=0.9)
    pruned = [step for step in range(1, 101) if decay.should_prune(step)]
    assert pruned == [20, 40, 50, 60, 80]
    for step in pruned:
        progress = 1 - min(max((1 - step / 50) ** 3, 0), 1)
        assert decay.sparsity(step) == pytest.approx(0.9 * progress)


def test_fractions_of_a_run_become_its_steps() -> None:
    polynomial = Polynomial(begin=0.1, end=0.5, refresh=0.8, frequency=7, power=2.0, initial=0.3)
    expected = PolynomialDecay(begin=20, end=100, refresh=160, frequency=7, power=2.0, initial=0.3, final=0.9)
    assert polynomial.over(200, 0.9) == expected
    constant = Constant(begin=0.1, end=0.5, frequency=7)
    assert constant.over(200, 0.9) == ConstantSparsity(begin=20, end=100, frequency=7, final=0.9)


def test_a_constant_that_ends_where_it_begins_makes_one_mask() -> None:
    constant = Constant(begin=0.0, end=0.0, frequency=1).over(50, 0.5)
    assert [step for step in range(1, 51) if constant.should_prune(step)] == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"begin": -1},
        {"end": 1},
        {"refresh": 8},
        {"frequency": 0},
        {"final": 1.0},
        {"initial": 0.95},
        {"power": 0.0},
    ],
)
def test_refuses_an_impossible_schedule(change: dict[str, float]) -> None:
    settings = {"begin": 2, "end": 9, "frequency": 1, "power": 3.0, "initial": 0.1, "final": 0.9}
    with pytest.raises(ValueError, match="must"):
        PolynomialDecay(**{**settings, **change})


@pytest.mark.parametrize("change", [{"begin": -1}, {"end": 1}, {"frequency": 0}, {"final": 1.0}])
def test_refuses_an_impossible_constant(change: dict[str, float]) -> None:
    settings = {"begin": 2, "end": 9, "frequency": 1, "final": 0.9}
    with pytest.raises(ValueError, match="must"):
        ConstantSparsity(**{**settings, **change})
