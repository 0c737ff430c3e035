import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from winnow.data.judging.annotators import consensus

CLASSES = [f"digit {i}" for i in range(10)]
SKILLS = {"ada": 0.9, "bob": 0.85, "cleo": 0.6, "dan": 0.55, "eve": 0.5}


def votes(true: np.ndarray, seed: int = 0, answered: float = 0.6) -> pd.DataFrame:
    """Let annotators of known skill label some samples each; the wrong ones at random."""
    random = np.random.default_rng(seed)
    rows = []
    for name, skill in SKILLS.items():
        for i in np.flatnonzero(random.random(len(true)) < answered):
            wrong = (true[i] + random.integers(1, 10)) % 10
            rows.append((f"id{i}", name, CLASSES[true[i] if random.random() < skill else wrong]))
    return pd.DataFrame(rows, columns=["id", "annotator", "label"])


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images, true = load_digits(return_X_y=True)
    return images[:1000] / 16, true[:1000]


def majority(table: pd.DataFrame, size: int) -> list[str | None]:
    most = table.groupby("id")["label"].agg(lambda labels: labels.mode().iloc[0])
    return [most.get(f"id{i}") for i in range(size)]


def judge(images: np.ndarray, given: list[str | None]) -> np.ndarray:
    labels = np.array([CLASSES.index(label) if label else 0 for label in given])
    return cross_val_predict(LogisticRegression(max_iter=300), images, labels, cv=5, method="predict_proba")


def test_the_consensus_beats_the_majority_and_knows_who_is_good(digits: tuple[np.ndarray, ...]) -> None:
    images, true = digits
    table = votes(true)
    given = majority(table, len(true))
    ids = [f"id{i}" for i in range(len(true))]
    found = consensus(table, ids, given, CLASSES, judge(images, given))
    voted = np.array([label is not None for label in given])
    truth = np.array(CLASSES, object)[true]
    right = (found.label == truth)[voted].mean()
    assert right > 0.93 > (np.array(given, object) == truth)[voted].mean() + 0.1
    assert (found.label[~voted] == None).all() and np.isnan(found.quality[~voted]).all()  # noqa: E711
    assert ((found.quality[voted] >= 0) & (found.quality[voted] <= 1)).all()
    correct = (found.label == truth)[voted]
    assert found.quality[voted][correct].mean() > found.quality[voted][~correct].mean() + 0.1

    summary = found.summary
    assert summary["status"] == "ok" and summary["n"] == voted.sum() and summary["votes_left_out"] == 0
    assert summary["changed"] == (found.label != np.array(given, object))[voted].sum() > 100
    quality = {row["annotator"]: row["quality"] for row in summary["annotators"]}
    assert np.corrcoef([quality[name] for name in SKILLS], list(SKILLS.values()))[0, 1] > 0.97
    assert [row["quality"] for row in summary["annotators"]] == sorted(quality.values())
    agreed = {row["annotator"]: row["agreement"] for row in summary["annotators"]}
    assert agreed == pytest.approx(SKILLS, abs=0.06)
    assert {row["annotator"]: row["n"] for row in summary["annotators"]} == dict(
        table["annotator"].value_counts()
    )


def certain(size: int) -> np.ndarray:
    return np.eye(2)[np.arange(size) % 2] * 0.8 + 0.1


def two(rows: list[tuple[str, str, str]], size: int = 12):
    """The consensus of some votes on samples of the classes a and b in turn."""
    given = ["ab"[i % 2] for i in range(size)]
    table = pd.DataFrame(rows, columns=["id", "annotator", "label"], dtype=object)
    return consensus(table, [f"id{i}" for i in range(size)], given, ["a", "b"], certain(size))


GOOD = [(f"id{i}", name, "ab"[i % 2]) for i in range(12) for name in ("ada", "bob")]


def test_an_annotator_who_errs_in_one_class_is_told_which() -> None:
    careless = [(f"id{i}", "cleo", "b") for i in range(10)]
    summary = two(GOOD + careless).summary
    rows = {row["annotator"]: row for row in summary["annotators"]}
    assert rows["cleo"]["worst_class"] == "b" and rows["cleo"]["agreement"] == 0.5
    assert rows["ada"]["worst_class"] is None and rows["ada"]["agreement"] == 1
    assert rows["cleo"]["quality"] < rows["ada"]["quality"]
    assert summary["changed"] == 0


def test_an_annotator_of_a_single_label_and_a_sample_of_a_single_vote_are_no_trouble() -> None:
    lone = [("id0", "cleo", "a"), ("id1", "dan", "b")]
    found = two([*GOOD[:20], *lone, ("id11", "eve", "b")])
    rows = {row["annotator"]: row for row in found.summary["annotators"]}
    assert rows["cleo"]["n"] == rows["dan"]["n"] == rows["eve"]["n"] == 1
    assert found.label[11] == "b" and found.label[10] is None and found.summary["n"] == 11


def test_votes_for_unknown_classes_are_left_out_and_counted_and_the_last_vote_counts() -> None:
    more = [
        ("id0", "cleo", "rare class"),
        ("no such id", "cleo", "a"),
        ("id2", "cleo", "b"),
        ("id2", "cleo", "a"),
    ]
    summary = two(GOOD + more).summary
    rows = {row["annotator"]: row for row in summary["annotators"]}
    assert summary["votes_left_out"] == 1
    assert rows["cleo"]["n"] == 1 and rows["cleo"]["agreement"] == 1


def test_samples_that_no_model_judged_are_left_out() -> None:
    table = pd.DataFrame(GOOD, columns=["id", "annotator", "label"])
    judged = certain(12)
    judged[:4] = 0
    found = consensus(table, [f"id{i}" for i in range(12)], [None] * 12, ["a", "b"], judged)
    assert found.summary["n"] == 8 and found.summary["votes_left_out"] == 8
    assert found.summary["changed"] == 0, "what had no label is not changed by getting one"
    assert list(found.label[:4]) == [None] * 4


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no annotators"),
        ([("id0", "ada", "a"), ("id1", "bob", "b")], "labels of two annotators"),
        ([("id0", "ada", "A"), ("id0", "bob", "A")], "one of the classes"),
        ([("id0", "ada", "a"), ("id0", "bob", "b")], "no two annotators agree"),
    ],
)
def test_where_there_is_no_consensus_to_find_it_is_skipped_with_a_reason(
    rows: list[tuple[str, str, str]], reason: str
) -> None:
    found = two(rows)
    assert found.summary["status"] == "skipped" and reason in found.summary["reason"]
    assert found.summary["n"] is None and found.summary["changed"] is None, "skipped is not 0 found"
    assert list(found.label) == [None] * 12 and np.isnan(found.quality).all()
