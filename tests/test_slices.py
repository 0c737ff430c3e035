import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from winnow.data import intervals
from winnow.data.judging.slices import Slicing, ambiguous_pairs, slices

SLICING = Slicing(bins=4, min_size=20, alpha=0.05, min_excess=0.05)


def samples(size: int = 2000, seed: int = 0) -> tuple[np.random.Generator, dict[str, pd.Series]]:
    random = np.random.default_rng(seed)
    columns = {
        "label": pd.Series(random.choice(["bread", "butter", "cheese"], size), dtype=object),
        "group": pd.Series([f"speaker {i % 8}" for i in range(size)], dtype=object),
        "seconds": pd.Series(random.gamma(2, 0.5, size), name="seconds"),
        "rms_dbfs": pd.Series(random.normal(-30, 5, size), name="rms_dbfs"),
    }
    return random, columns


def test_finds_the_slices_that_are_planted_weak_and_no_other() -> None:
    random, columns = samples()
    short = columns["seconds"] <= columns["seconds"].quantile(0.25, interpolation="lower")
    weak = short | (columns["group"] == "speaker 3")
    wrong = random.random(2000) < np.where(weak, 0.35, 0.1)
    rows = slices(wrong, columns, SLICING)
    worse = [row for row in rows if row["worse"]]
    assert rows[: len(worse)] == worse
    assert {(row["by"], row["slice"].split("–")[0]) for row in worse} == {
        ("group", "speaker 3"), ("seconds", f"{columns['seconds'].min():.3g}"),
    }  # fmt: skip
    assert all(row["excess"] > 0.1 for row in worse)


def test_finds_no_slice_worse_where_errors_fall_at_random() -> None:
    alarms = 0
    for seed in range(30):
        random, columns = samples(600, seed)
        alarms += any(row["worse"] for row in slices(random.random(600) < 0.2, columns, SLICING))
    assert alarms <= 3


def test_without_the_correction_for_many_tests_some_slice_would_always_be_worse() -> None:
    random = np.random.default_rng(1)
    group = pd.Series([f"{i % 100}" for i in range(4000)], dtype=object)
    rows = slices(random.random(4000) < 0.2, {"group": group}, SLICING)
    assert any(row["p"] < 0.05 for row in rows)
    assert not any(row["worse"] for row in rows)


def test_with_many_samples_a_tiny_excess_is_sure_and_still_no_alarm() -> None:
    random = np.random.default_rng(0)
    half = np.arange(400_000) % 2 == 0
    wrong = random.random(400_000) < np.where(half, 0.11, 0.10)
    columns = {"half": pd.Series(np.where(half, "a", "b"), dtype=object)}
    rows = slices(wrong, columns, SLICING)
    assert all(row["q"] < 1e-6 and not row["worse"] for row in rows)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=2, max_size=60))
def test_counts_shares_intervals_and_tests_are_those_of_the_formulas(rows: list[tuple[str, bool]]) -> None:
    label = pd.Series([name for name, _ in rows], dtype=object)
    wrong = np.array([bad for _, bad in rows])
    found = slices(wrong, {"label": label}, Slicing(bins=2, min_size=1, alpha=0.05, min_excess=0.0))
    tested = [row for row in found if row["status"] == "ok"]
    if label.nunique() == 1:
        assert not tested and "all samples" in found[0]["reason"]
        return
    assert sorted(row["slice"] for row in tested) == sorted(label.unique())
    for row in tested:
        inside = (label == row["slice"]).to_numpy()
        assert (row["n"], row["errors"]) == (inside.sum(), wrong[inside].sum())
        assert row["error"] == round(wrong[inside].mean(), 6)
        assert (row["low"], row["high"]) == tuple(
            round(v, 6) for v in intervals.wilson(row["errors"], row["n"])
        )
        assert row["excess"] == pytest.approx(wrong[inside].mean() - wrong[~inside].mean(), abs=1e-6)
        known = (
            stats.fisher_exact(pd.crosstab(inside, wrong)).pvalue if wrong.any() and not wrong.all() else 1
        )
        assert row["p"] == pytest.approx(known, rel=1e-4)
    q = stats.false_discovery_control([row["p"] for row in tested])
    assert [row["q"] for row in tested] == pytest.approx(list(q), abs=1e-5)


def test_what_is_too_small_or_empty_or_all_the_same_is_left_out_with_a_reason() -> None:
    columns = {
        "label": pd.Series(["a"] * 60 + ["b"] * 35 + ["c"] * 3 + ["d"] * 2, dtype=object),
        "group": pd.Series([None] * 100, dtype=object),
        "native_rate_hz": pd.Series([8000.0] * 100, name="native_rate_hz"),
        "snr_db": pd.Series([np.nan] * 100, name="snr_db"),
    }
    rows = slices(np.arange(100) % 3 == 0, columns, SLICING)
    assert [row["slice"] for row in rows if row["status"] == "ok"] in (["a", "b"], ["b", "a"])
    left = {row["by"]: row["reason"] for row in rows if row["status"] == "skipped"}
    assert left == {
        "label": "2 slices of less than 20 samples: 5 in all",
        "group": "no sample has a value",
        "native_rate_hz": "all samples have the value 8000 Hz",
        "snr_db": "no sample has a value",
    }
    assert all(row["error"] is None and row["worse"] is None for row in rows if row["status"] == "skipped")


def test_ranges_are_named_as_a_person_reads_them_and_hold_each_sample_once() -> None:
    columns = {
        "seconds": pd.Series([0.14, 0.3, 0.32, 0.5, 0.61, 0.9, 1.2, 2.28], name="seconds"),
        "rms_dbfs": pd.Series([-40.0, -35, -30, -25, -20, -15, -10, -5], name="rms_dbfs"),
        "tokens": pd.Series([0.0, 0, 0, 0, 0, 7, 8, 9], name="tokens"),
        "rate": pd.Series([8000.0] * 4 + [16000] * 4, name="native_rate_hz"),
        "bytes": pd.Series([1e6, 2e6, 3e6, 4e6, 5e6, 6e6, 7e6, 8e6]),
    }
    rows = slices(np.arange(8) < 3, columns, Slicing(bins=4, min_size=1, alpha=0.05, min_excess=0.0))
    named = {by: {row["slice"] for row in rows if row["by"] == by} for by in columns}
    assert named["seconds"] == {"0.14–0.3 s", "0.3–0.5 s", "0.5–0.9 s", "0.9–2.28 s"}
    assert named["rms_dbfs"] == {"−40 to −35 dBFS", "−35 to −25 dBFS", "−25 to −15 dBFS", "−15 to −5 dBFS"}
    assert named["tokens"] == {"0", "7", "8", "9"}
    assert named["rate"] == {"8000 Hz", "16000 Hz"}
    assert named["bytes"] == {"1000000–2000000", "2000000–4000000", "4000000–6000000", "6000000–8000000"}
    for by in columns:
        assert sum(row["n"] for row in rows if row["by"] == by) == 8


@given(st.lists(st.integers(-20, 20).map(float) | st.just(float("nan")), min_size=1, max_size=80))
def test_every_measured_value_is_in_exactly_one_range(values: list[float]) -> None:
    column = pd.Series(values, name="x")
    rows = slices(
        np.zeros(len(values), bool), {"x": column}, Slicing(bins=3, min_size=1, alpha=0.1, min_excess=0.0)
    )
    sizes = [row["n"] for row in rows if row["status"] == "ok"]
    assert sum(sizes) == column.notna().sum() or column.nunique() <= 1
    assert len({row["slice"] for row in rows}) == len(rows)


def test_pairs_are_counted_in_both_directions_and_ranked() -> None:
    classes = ["a", "b", "c", "d"]
    given_ = np.repeat(np.arange(4), 50)
    predicted = given_.copy()
    predicted[:6] = 1  # a taken for b
    predicted[50:54] = 0  # b taken for a
    predicted[100:103] = 3
    judged = np.full((200, 4), 0.1)
    judged[np.arange(200), predicted] = 0.7
    pairs = ambiguous_pairs(judged, given_, classes, most=5)
    assert [(pair["a"], pair["b"], pair["n"], pair["share"]) for pair in pairs] == [
        ("a", "b", 10, 0.1),
        ("c", "d", 3, 0.03),
    ]
    assert (pairs[0]["low"], pairs[0]["high"]) == tuple(round(v, 6) for v in intervals.wilson(10, 100))
    assert pairs[0]["belief"] == pytest.approx((10 * 0.7 + 90 * 0.1) / 100)
    assert len(ambiguous_pairs(judged, given_, classes, most=1)) == 1
    assert ambiguous_pairs(np.eye(4)[given_], given_, classes, most=5) == []
