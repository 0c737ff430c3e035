from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.data import store
from winnow.data.partition import Splits, assign_splits
from winnow.data.stage import BadInput


def samples(
    labels: list[Any], groups: list[Any] | None = None, splits: list[Any] | None = None
) -> pd.DataFrame:
    none = [None] * len(labels)
    columns = {"id": [f"id{i}" for i in range(len(labels))], "label": labels}
    columns |= {"split": splits or none, "group": groups or none}
    return pd.DataFrame(columns, dtype=object)


def spread(table: pd.DataFrame, splits: Splits, seed: int = 0) -> pd.Series:
    return assign_splits(table, splits, np.random.default_rng(seed))


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(10, 60), min_size=1, max_size=5),
    seed=st.integers(0, 9),
    validation=st.sampled_from([0.1, 0.2]),
    test=st.sampled_from([0.1, 0.3]),
)
def test_classes_are_spread_in_proportion(sizes: list[int], seed: int, validation: float, test: float):
    labels = [f"c{i}" for i, size in enumerate(sizes) for _ in range(size)]
    chosen = spread(samples(labels), Splits(validation, test), seed)
    table = pd.crosstab(labels, chosen.to_numpy())
    for i, size in enumerate(sizes):
        assert abs(table.loc[f"c{i}", "validation"] - validation * size) <= 1
        assert abs(table.loc[f"c{i}", "test"] - test * size) <= 1


@given(st.data())
def test_no_group_is_in_two_splits(data: st.DataObject):
    count = data.draw(st.integers(3, 60))
    labels = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=count, max_size=count))
    names = st.sampled_from([*"uvwxyz", None])
    groups = data.draw(st.lists(names, min_size=count, max_size=count))
    table = samples(labels, groups)
    try:
        table["split"] = spread(table, Splits(0.2, 0.2), data.draw(st.integers(0, 3)))
    except BadInput as refusal:
        assert "would be empty" in str(refusal)
        return
    assert table["split"].isin(store.SPLITS).all()
    assert (table.groupby("group")["split"].nunique() == 1).all()
    alone = table["label"].isna() & table["group"].isna()
    assert (table["split"][alone] == "train").all()


def test_six_speakers_leave_one_to_validation_and_one_to_test():
    table = samples(list("abc") * 60, [f"s{i // 30}" for i in range(180)])
    for seed in range(5):
        counts = spread(table, Splits(0.1, 0.1), seed).value_counts()
        assert counts.to_dict() == {"train": 120, "validation": 30, "test": 30}


def test_splits_follow_the_seed():
    table = samples(["a", "b"] * 50)
    first, again, other = (spread(table, Splits(0.2, 0.2), seed) for seed in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)


def test_given_splits_are_kept():
    given_ = ["train"] * 8 + ["validation", "test"]
    table = samples(["a", "b"] * 5, splits=given_)
    assert spread(table, Splits(0.3, 0.3)).tolist() == given_


def test_validation_is_carved_out_of_train_where_only_test_is_given():
    table = samples(["a", "b"] * 50, splits=["train"] * 80 + ["test"] * 20)
    chosen = spread(table, Splits(0.25, 0.25))
    assert (chosen[80:] == "test").all()
    assert chosen[:80].value_counts().to_dict() == {"train": 60, "validation": 20}


def test_what_has_no_split_joins_its_group():
    table = samples(["a"] * 10, groups=["g"] * 3 + [None] * 7, splits=["test", None, None] + [None] * 7)
    assert spread(table, Splits(0.2, 0.2)).tolist()[:3] == ["test"] * 3


def test_a_split_that_would_be_empty_is_refused():
    with pytest.raises(BadInput, match=r"'validation' would be empty.*0.01.*in 1 groups"):
        spread(samples(["a"] * 9, ["only"] * 9), Splits(0.01, 0.01))


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5)])
def test_impossible_shares_are_refused(shares: tuple[float, float]):
    with pytest.raises(ValueError, match="shares must be"):
        Splits(*shares)


def one_by_one(table: pd.DataFrame, splits: Splits, seed: int) -> list[str]:
    """Hand out single samples in the order of chance, each to the split that is owed most."""
    names, share = ["train", "validation", "test"], np.array([1 - splits.validation - splits.test, 0.2, 0.3])
    has = {label: np.zeros(3) for label in table["label"]}
    ids = sorted(table["id"])
    label_of = dict(zip(table["id"], table["label"], strict=True))
    chosen = {}
    for i in np.random.default_rng(seed).permutation(len(ids)):
        seats = has[label_of[ids[i]]]
        winner = int((share / (2 * seats + 1)).argmax())
        seats[winner] += 1
        chosen[ids[i]] = names[winner]
    return [chosen[id_] for id_ in table["id"]]


@given(labels=st.lists(st.sampled_from("abc"), min_size=12, max_size=80), seed=st.integers(0, 9))
def test_single_samples_go_where_they_would_one_by_one(labels: list[str], seed: int):
    table, splits = samples(labels), Splits(0.2, 0.3)
    try:
        chosen = spread(table, splits, seed)
    except BadInput:
        return
    assert chosen.tolist() == one_by_one(table, splits, seed)
