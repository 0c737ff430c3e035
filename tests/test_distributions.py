import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from winnow.data.comparing import distributions
from winnow.data.comparing.distributions import Column

numbers = st.lists(st.integers(-30, 30).map(lambda i: i / 3), min_size=2, max_size=60)


def counts(values: np.ndarray, upper: np.ndarray) -> np.ndarray:
    return distributions.binned(values, upper).counts(np.arange(len(values)))


@given(numbers, numbers)
def test_with_a_bin_for_each_value_the_distance_is_kolmogorov_and_smirnovs(a: list, b: list) -> None:
    one, other = np.array(a), np.array(b)
    upper = np.unique(np.concatenate([one, other]))
    found = distributions.distance(counts(one, upper), counts(other, upper), ordered=True)
    assert found == pytest.approx(stats.ks_2samp(one, other, method="asymp").statistic)


@given(st.integers(0, 1000))
def test_few_bins_lose_little_of_the_distance(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = random.normal(size=700), random.normal(random.random(), 1 + random.random(), 500)
    upper = distributions.edges(one, 40)
    found = distributions.distance(counts(one, upper), counts(other, upper), ordered=True)
    known = stats.ks_2samp(one, other, method="asymp").statistic
    assert known - 1 / 40 - 1e-3 <= found <= known + 1e-12


@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.integers(0, 50))
def test_total_variation_is_half_the_sum_of_the_differences(a: list[int], more: int) -> None:
    assume(sum(a))
    b = [*a[1:], a[0] + more]
    known = sum(abs(x / sum(a) - y / sum(b)) for x, y in zip(a, b, strict=True)) / 2
    assert distributions.distance(np.array(a), np.array(b), ordered=False) == pytest.approx(known)


@given(numbers, st.integers(2, 20))
def test_bins_hold_every_value_once_and_the_last_is_open(values: list[float], bins: int) -> None:
    found = np.array(values)
    upper = distributions.edges(found, bins)
    assert (np.diff(upper) > 0).all()
    held = counts(found, upper)
    assert held.sum() == len(found)
    assert counts(np.array([found.max() + 1]), upper)[-1] == 1
    assert counts(np.array([found.min() - 1]), upper)[0] == 1 and held[0] == 0
    assert counts(np.array([np.nan, np.inf]), upper).sum() == 0


def test_a_value_that_all_have_is_told_from_those_above_and_below() -> None:
    upper = distributions.edges(np.full(100, 8000.0), 40)
    for other in (4000.0, 7999.9, 8000.1, 16000.0):
        apart = distributions.distance(
            counts(np.full(100, 8000.0), upper), counts(np.full(50, other), upper), ordered=True
        )
        assert apart == 1


def test_the_p_value_is_that_of_an_exact_test() -> None:
    a, b = np.array([12, 5]), np.array([4, 11])
    found = distributions.by_sample(a, b, ordered=False, permutations=20_000, random=np.random.default_rng(0))
    assert found.p == pytest.approx(stats.fisher_exact([a, b]).pvalue, abs=0.006)
    assert found.effect == pytest.approx(12 / 17 - 4 / 15)


@pytest.mark.parametrize("unit", ["sample", "block"])
def test_p_values_are_even_where_nothing_differs(unit: str) -> None:
    found = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        if unit == "sample":
            values, second = random.normal(size=90), np.arange(90) < 30
            column = distributions.binned(values, distributions.edges(values, 40))
            sides = column.counts(~second), column.counts(second)
            found.append(distributions.by_sample(*sides, ordered=True, permutations=199, random=random))
        else:  # samples of a block are alike
            blocks = np.repeat(np.arange(20), 10)
            values = np.repeat(random.normal(size=20), 10) + 0.1 * random.normal(size=200)
            column = distributions.binned(values, distributions.edges(values, 40))
            side = random.permutation(20) < 8
            found += distributions.by_block([column], blocks, side, permutations=199, seed=seed)
    p = np.array([one.p for one in found])
    assert 0.01 <= (p < 0.05).mean() <= 0.09
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean([one.effect - one.chance for one in found]) == pytest.approx(0, abs=0.02)


def test_what_differs_is_found_by_blocks_and_by_samples() -> None:
    random = np.random.default_rng(0)
    blocks = np.repeat(np.arange(40), 10)
    side = np.arange(40) < 15
    shifted = np.repeat(random.normal(size=40) + 2 * side, 10)
    plain = np.repeat(random.normal(size=40), 10)
    label = Column(np.where(side[blocks], 0, np.arange(400) % 2), 2, ordered=False)
    columns = [distributions.binned(v, distributions.edges(v, 40)) for v in (shifted, plain)]
    found = distributions.by_block([*columns, label], blocks, side, permutations=499, seed=0)
    assert found[0].p < 0.01 < found[1].p and found[2].p < 0.01
    assert found[0].effect - found[0].chance > 0.3
    assert found[2].effect == pytest.approx(0.5)
    assert found == distributions.by_block([*columns, label], blocks, side, permutations=499, seed=0)


def test_many_blocks_are_dealt_in_chunks_and_none_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=300)
    column = distributions.binned(values, distributions.edges(values, 10))
    settings = {"permutations": 101, "seed": 0}
    whole = distributions.by_block([column], np.arange(300), np.arange(300) < 100, **settings)
    monkeypatch.setattr(distributions, "_CELLS", 3000)
    assert distributions.by_block([column], np.arange(300), np.arange(300) < 100, **settings) == whole
