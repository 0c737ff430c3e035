from typing import Any

import numpy as np
import pandas as pd
import pytest
from desk import caps, label_policy, scores
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.data.deciding import policy

CLASSES = ["ant", "bee", "cow"]


def dataset(seed: int, number: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A manifest with holes in it, and an audit that suspects a good part."""
    random = np.random.default_rng(seed)
    names = [f"{i:020x}" for i in range(number)]
    manifest = pd.DataFrame({"id": names})
    manifest["label"] = pd.Series(
        random.choice([*CLASSES, None], number, p=[0.5, 0.3, 0.15, 0.05]), dtype=object
    )
    manifest["group"] = pd.Series(random.choice(["x", "y", "z", None], number), dtype=object)
    manifest["split"] = random.choice(["train", "validation", "test"], number, p=[0.6, 0.2, 0.2])
    table = scores(names, random.choice(CLASSES, number).tolist())
    for name in ("margin", "filter", "neighbours", "group"):
        table[f"by_{name}"] = random.random(number) < 0.6
    table["label_quality"] = np.where(manifest["label"].isna(), np.nan, random.random(number))
    table["suggested_confidence"] = random.random(number)
    table["is_outlier"] = random.random(number) < 0.1
    table["exact_duplicate_set"] = np.where(random.random(number) < 0.1, random.integers(0, 3, number), -1)
    return manifest, table


def decide(manifest: pd.DataFrame, table: pd.DataFrame, action: str) -> pd.DataFrame:
    return policy.decide(
        manifest,
        table,
        policy.suggestions(manifest, table, []),
        labels=label_policy(action),
        drop_exact_duplicates=True,
        drop_near_duplicates=True,
        drop_outliers=True,
        drop_checks=[],
    )


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    action=st.sampled_from(["drop", "relabel", "hybrid"]),
    of_class=st.floats(0, 1),
    of_group=st.floats(0, 1),
    least=st.integers(0, 15),
)
def test_caps_hold_for_classes_and_groups_and_bite_no_more_than_they_must(
    seed: int, action: str, of_class: float, of_group: float, least: int
) -> None:
    manifest, table = dataset(seed)
    before = decide(manifest, table, action)
    after = before.copy()
    back = policy.cap(after, manifest, table, caps(of_class, of_group, least))

    free = manifest["split"] != "test"
    lost = (after["action"] == "drop") & ~after["reason"].isin([policy.EXACT, policy.NEAR])
    changed = after["action"] != "keep"
    room: dict[Any, bool] = {}
    for label, part in manifest[free].groupby("label"):
        assert lost[part.index].sum() <= of_class * len(part)
        assert changed[part.index].sum() <= max(0, len(part) - least)
        room[label] = lost[part.index].sum() + 1 <= int(of_class * len(part)) and changed[
            part.index
        ].sum() < max(0, len(part) - least)
    for group, part in manifest[free].groupby("group"):
        allowed = max(1 if of_group else 0, int(of_group * len(part)))
        assert lost[part.index].sum() <= allowed
        room[group] = lost[part.index].sum() < allowed
    returned = (before["action"] != "keep") & ~changed
    for row in np.flatnonzero(returned):
        # Where both its class and its group have room left, nothing is taken back.
        assert not (room.get(manifest["label"][row], True) and room.get(manifest["group"][row], True))
        assert after["label"][row] == manifest["label"][row]
        assert after["reason"][row].startswith("kept: ") and after["decided_by"][row] == "policy"
    assert sum(row["n"] for row in back) == returned.sum()
    pd.testing.assert_frame_equal(after[~returned], before[~returned])


def test_of_one_class_the_least_suspicious_are_taken_back() -> None:
    manifest, table = dataset(3, number=400)
    manifest["group"] = None
    decided = decide(manifest, table, "drop")
    policy.cap(decided, manifest, table, caps(of := 0.1))
    for label in CLASSES:
        wanted = (manifest["label"] == label) & decided["reason"].str.contains(policy.LABEL_ISSUE)
        gone, back = wanted & (decided["action"] == "drop"), wanted & (decided["action"] == "keep")
        if gone.any() and back.any():
            assert table["label_quality"][gone].max() <= table["label_quality"][back].min(), of


@pytest.mark.parametrize(
    "flags, agree",
    [
        (["margin", "filter"], 1),
        (["margin", "neighbours"], 2),
        (["filter", "group"], 2),
        (["margin", "filter", "neighbours", "group"], 3),
    ],
)
def test_what_reads_the_same_probabilities_is_one_voice(flags: list[str], agree: int) -> None:
    table = scores(["a"], ["bee"])
    for name in flags:
        table[f"by_{name}"] = True
    manifest = pd.DataFrame({"label": ["ant"]})
    assert policy.voices(manifest, table).sum(axis=1)[0] == agree


def test_a_suggestion_is_another_label_than_the_given() -> None:
    manifest = pd.DataFrame({"label": pd.Series(["ant", "ant", None], dtype=object), "group": [None] * 3})
    table = scores(["a", "b", "c"], ["ant", "bee", "bee"])
    found = policy.suggestions(manifest, table, [])
    assert found.label.tolist() == [None, "bee", None]
    assert found.confidence.tolist() == [0.0, 0.9, 0.0]


def test_fewer_wrong_labels_are_left_and_few_right_ones_go() -> None:
    """Planted: 10 % wrong labels, detectors that err independently."""
    random = np.random.default_rng(0)
    number = 4000
    wrong = random.random(number) < 0.1
    manifest = pd.DataFrame({"id": [f"{i:x}" for i in range(number)], "split": "train", "group": None})
    manifest["label"] = "ant"
    table = scores(list(manifest["id"]), ["bee"] * number)
    for name in ("margin", "neighbours"):
        table[f"by_{name}"] = random.random(number) < np.where(wrong, 0.9, 0.05)
    table["label_quality"] = np.where(table["by_margin"], 0.2, 0.9)
    dropped = decide(manifest, table, "drop")["action"] == "drop"
    assert wrong[dropped].mean() > 0.95  # one detector alone: two in three
    assert wrong[table["by_margin"]].mean() < 0.75
    assert wrong[~dropped].mean() < 0.1 / 4
