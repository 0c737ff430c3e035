from collections.abc import Callable
from pathlib import Path
from typing import Any

import clouds
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from winnow.data import curate, store
from winnow.data.stage import BadInput

HEADER = "id,action,label,reviewer,note\n"
NUMBER = 40
NAMES = clouds.names(NUMBER)
# By default nothing is decided; each test turns on what it is about.
IDLE: dict[str, Any] = {
    "labels": curate.LabelPolicy(action="review", min_detectors=2, sure=0.8),
    "drop_exact_duplicates": False,
    "drop_near_duplicates": False,
    "drop_outliers": False,
    "drop_checks": [],
    "max_dropped_share": 1.0,
}


class Desk:
    """A dataset of 40 samples, of which the last 8 are for testing, and what an audit says of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.labels: list[str | None] = ["ant" if i % 2 else "bee" for i in range(NUMBER)]
        self.group: list[str | None] = [None] * NUMBER
        self.reviews = HEADER
        self.scores = pd.DataFrame({"id": NAMES, "is_label_issue": False, "label_detectors": 0})
        self.scores["label_quality"] = np.linspace(0.01, 0.99, NUMBER)
        self.scores["suggested_label"] = ["bee" if i % 2 else "ant" for i in range(NUMBER)]
        self.scores["suggested_confidence"] = 0.9
        self.scores["is_outlier"], self.scores["is_short"] = False, False
        self.scores["exact_duplicate_set"] = self.scores["near_duplicate_set"] = -1

    def flag(self, rows: list[int], detectors: int = 3, confidence: float = 0.9) -> None:
        columns = ["is_label_issue", "label_detectors", "suggested_confidence"]
        self.scores.loc[rows, columns] = [True, detectors, confidence]

    def duplicate(self, rows: list[int], kind: str = "exact", number: int = 0) -> None:
        self.scores.loc[rows, f"{kind}_duplicate_set"] = number

    def run(self, name: str = "curate@1", **changed: Any) -> pd.DataFrame:
        """Decide; give the table of decisions."""
        if not (self.root / "ingest").exists():
            split = clouds.splits(NUMBER, validation=6, test=8)
            vectors = np.zeros((NUMBER, 2), np.float32)
            clouds.write(self.root, vectors, self.labels, split=split, group=self.group)
        (self.root / "audit").mkdir(exist_ok=True)
        store.write_table(self.root / "audit" / "issues.parquet", self.scores)
        (self.root / "reviews.csv").write_text(self.reviews, encoding="utf-8")
        out = self.root / name
        out.mkdir()
        curate.main(
            clouds.MODALITY,
            self.root / "ingest",
            self.root / "audit",
            self.root / "reviews.csv",
            out,
            **{**IDLE, **changed},
        )
        self.metrics = store.read_json(out / "metrics.json")
        return store.read_table(out / "decisions.parquet")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def policy(action: Any, min_detectors: int = 2, sure: float = 0.8) -> curate.LabelPolicy:
    return curate.LabelPolicy(action=action, min_detectors=min_detectors, sure=sure)


def rows(decisions: pd.DataFrame, action: str) -> list[int]:
    return decisions.index[decisions["action"] == action].tolist()


def test_without_a_policy_all_is_kept_as_delivered(desk: Desk) -> None:
    desk.flag([1, 2])
    desk.duplicate([3, 4])
    found = desk.run()
    assert list(found.columns) == ["id", "action", "label", "reason", "decided_by"]
    assert (found["action"] == "keep").all() and (found["decided_by"] == "none").all()
    assert list(found["label"]) == desk.labels and list(found["id"]) == NAMES


@pytest.mark.parametrize(
    "action, dropped, relabelled",
    [
        ("drop", [1, 2], []),
        ("relabel", [], [1, 2]),
        ("hybrid", [2], [1]),
        ("review", [], []),
    ],
)
def test_a_flagged_label_is_treated_as_the_policy_says(
    desk: Desk, action: str, dropped: list[int], relabelled: list[int]
) -> None:
    desk.flag([1], confidence=0.8)
    desk.flag([2], confidence=0.79)
    desk.flag([3], detectors=1)  # of three detectors two have to agree
    found = desk.run(labels=policy(action))
    assert rows(found, "drop") == dropped and rows(found, "relabel") == relabelled
    changed = [i for i in range(NUMBER) if found["label"][i] != desk.labels[i]]
    assert changed == relabelled
    assert all(found["label"][i] == desk.scores["suggested_label"][i] for i in relabelled)
    touched = found.loc[dropped + relabelled]
    assert (touched["reason"] == "label issue").all() and (touched["decided_by"] == "policy").all()


def test_outliers_and_checks_are_dropped_if_asked_and_each_says_why(desk: Desk) -> None:
    desk.scores.loc[[1, 2], "is_outlier"] = True
    desk.scores.loc[[2, 3], "is_short"] = True
    found = desk.run(drop_outliers=True, drop_checks=["short"])
    assert found["reason"][[1, 2, 3]].tolist() == ["outlier", "short", "short"]
    assert rows(found, "drop") == [1, 2, 3]


def test_an_unknown_check_is_named_with_the_known(desk: Desk) -> None:
    with pytest.raises(BadInput, match=r"curate\.drop_checks: no check 'shrot'.*'outlier', 'short'"):
        desk.run(drop_checks=["shrot"])


def test_of_exact_duplicates_the_first_survives(desk: Desk) -> None:
    desk.duplicate([2, 4, 6])
    desk.duplicate([9, 29], number=1)
    found = desk.run(drop_exact_duplicates=True)
    assert rows(found, "drop") == [4, 6, 29]
    assert (found["reason"][[4, 6, 29]] == "exact duplicate of a kept sample").all()


def test_of_duplicates_the_one_in_the_test_split_survives(desk: Desk) -> None:
    desk.duplicate([2, 4, 36])
    desk.duplicate([5, 39], "near")
    found = desk.run(drop_exact_duplicates=True, drop_near_duplicates=True)
    assert rows(found, "drop") == [2, 4, 5]


def test_duplicates_within_the_test_split_stay(desk: Desk) -> None:
    desk.duplicate([34, 36])
    assert rows(desk.run(drop_exact_duplicates=True), "drop") == []


def test_of_duplicates_the_one_with_a_label_survives(desk: Desk) -> None:
    desk.labels[2] = None
    desk.duplicate([2, 4, 6])
    assert rows(desk.run(drop_exact_duplicates=True), "drop") == [2, 6]


def test_exact_duplicates_with_different_labels_all_go(desk: Desk) -> None:
    desk.duplicate([2, 3, 4])
    desk.duplicate([7, 38], number=1)  # at odds with a test sample, which stays
    found = desk.run(drop_exact_duplicates=True)
    assert rows(found, "drop") == [2, 3, 4, 7]
    assert (found["reason"][[2, 3, 4, 7]] == "exact duplicates with different labels").all()


def test_near_duplicates_may_differ_in_their_labels(desk: Desk) -> None:
    desk.duplicate([2, 3], "near")
    assert rows(desk.run(drop_near_duplicates=True), "drop") == [3]


def test_what_is_gone_already_makes_no_near_duplicate_surplus(desk: Desk) -> None:
    desk.duplicate([2, 3])  # exact, with different labels: both go
    desk.duplicate([2, 3, 4], "near")
    found = desk.run(drop_exact_duplicates=True, drop_near_duplicates=True)
    assert rows(found, "drop") == [2, 3]


@pytest.mark.parametrize("share, allowed", [(0.0, 0), (0.25, 4), (0.3, 4), (1.0, 10)])
def test_a_class_loses_no_more_than_its_share_and_the_most_suspicious_first(
    desk: Desk, share: float, allowed: int
) -> None:
    ants = [i for i in range(34) if i % 2][:17]  # 16 of them are in train and validation
    desk.flag(ants[:10])
    desk.flag([0])
    desk.scores["label_quality"] = np.random.default_rng(0).permutation(NUMBER) / NUMBER
    found = desk.run(labels=policy("drop"), max_dropped_share=share)
    worst = desk.scores.loc[ants[:10], "label_quality"].sort_values().index[:allowed]
    assert [i for i in rows(found, "drop") if i % 2] == sorted(worst)
    back = sorted(set(ants[:10]) - set(worst))
    said = "kept: the class has lost its share (label issue)"
    assert (found["reason"][back] == said).all()
    assert desk.metrics["retention_min_class"] >= 1 - share


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), action=st.sampled_from(["drop", "relabel", "hybrid", "review"]))
def test_the_test_split_is_untouched_whatever_the_scores_say(
    tmp_path_factory: pytest.TempPathFactory, seed: int, action: str
) -> None:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    random = np.random.default_rng(seed)
    for column in ("is_label_issue", "is_outlier", "is_short"):
        desk.scores[column] = random.random(NUMBER) < 0.6
    for column in ("exact_duplicate_set", "near_duplicate_set"):
        desk.scores[column] = random.integers(-1, 8, NUMBER)
    desk.scores["label_detectors"] = random.integers(0, 4, NUMBER)
    desk.scores["suggested_confidence"] = random.random(NUMBER)
    found = desk.run(
        labels=policy(action),
        drop_exact_duplicates=True,
        drop_near_duplicates=True,
        drop_outliers=True,
        drop_checks=["short"],
        max_dropped_share=float(random.random()),
    )
    test = found[-8:]
    assert (test["action"] == "keep").all() and (test["decided_by"] == "none").all()
    assert list(test["label"]) == desk.labels[-8:]
    counts = found["action"].value_counts()
    known = {"keep": "kept", "relabel": "relabelled", "drop": "dropped"}
    assert {name: desk.metrics[name] for name in known.values()} == {
        name: counts.get(action, 0) for action, name in known.items()
    }
    assert sum(desk.metrics[name] for name in known.values()) == NUMBER
    assert desk.metrics["by_humans"] == 0


def test_human_reviews_win_over_policy_and_over_the_cap(desk: Desk) -> None:
    desk.flag([1, 2, 3])
    desk.reviews = HEADER + (
        f"{NAMES[1]},keep,,Jo,looks right\n"
        f"{NAMES[2]},relabel,ant,Jo,\n"
        f"{NAMES[5]},drop,,,blurred\n"
        f'{NAMES[7]},drop,,Jo,"empty, I think"\n'
    )
    found = desk.run(labels=policy("drop"), max_dropped_share=0.0)
    assert found["action"][[1, 2, 3, 5, 7]].tolist() == ["keep", "relabel", "keep", "drop", "drop"]
    assert found["label"][[1, 2]].tolist() == ["ant", "ant"]
    said = ["Jo: looks right", "Jo", "blurred", "Jo: empty, I think"]
    assert found["reason"][[1, 2, 5, 7]].tolist() == said
    assert (found["decided_by"][[1, 2, 5, 7]] == "human").all()
    assert desk.metrics["by_humans"] == 4


def test_a_human_may_give_an_unlabelled_sample_its_label(desk: Desk) -> None:
    desk.labels[3] = None
    desk.reviews = f"{HEADER}{NAMES[3]},relabel,bee,Jo,\n"
    assert desk.run()["label"][3] == "bee"


def test_a_spreadsheets_mark_and_blank_lines_are_no_matter(desk: Desk) -> None:
    desk.reviews = f"\ufeff{HEADER}\n{NAMES[3]},drop,,Jo,\n\n"
    assert rows(desk.run(), "drop") == [3]


@pytest.mark.parametrize(
    "line, message",
    [
        ("ffff,drop,,Jo,", "line 4: no sample has the id 'ffff'; remove the line"),
        (f"{NAMES[0]},keep,,Jo,", f"line 4: '{NAMES[0]}' was decided in line 2 already; remove"),
        (f"{NAMES[5]},delete,,Jo,", r"line 4: action 'delete' is none of \('keep', 'relabel', 'drop"),
        (f"{NAMES[5]},relabel,cow,Jo,", r"line 4: label 'cow' is none of \['ant', 'bee'\]"),
        (f"{NAMES[5]},relabel,,Jo,", r"line 4: label '' is none of \['ant', 'bee'\]"),
        (f"{NAMES[39]},drop,,Jo,", f"line 4: {NAMES[39]} is a test sample.*Mend it at the source"),
        (f"{NAMES[5]},drop,,Jo,dark, too", "line 4: not 5 values; a note with a comma.*quotes"),
        (f"{NAMES[5]},drop", "line 4: not 5 values"),
    ],
    ids=[
        "unknown id", "twice", "unknown action", "unknown label", "no label", "test sample",
        "too many values", "too few values",
    ],
)  # fmt: skip
def test_a_review_that_cannot_be_carried_out_names_file_line_and_remedy(
    desk: Desk, line: str, message: str
) -> None:
    desk.reviews = f"{HEADER}{NAMES[0]},keep,,Jo,\n\n{line}\n"
    with pytest.raises(BadInput, match=rf"reviews\.csv, {message}"):
        desk.run()


@pytest.mark.parametrize("header", ["", "id,label,action,reviewer,note\n", "id;action\n"])
def test_wrong_columns_are_named_with_the_right_ones(desk: Desk, header: str) -> None:
    desk.reviews = header
    with pytest.raises(BadInput, match=r"reviews\.csv: columns are .*, not \['id', 'action'"):
        desk.run()


@pytest.mark.parametrize(
    "change",
    [lambda table: table[::-1], lambda table: table[1:]],
    ids=["another order", "fewer"],
)
def test_scores_of_another_dataset_are_refused(
    desk: Desk, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    desk.scores = change(desk.scores).reset_index(drop=True)
    with pytest.raises(BadInput, match=r"is about other samples than .*ingest: audit them again"):
        desk.run()


def test_retention_is_told_of_the_worst_class_and_the_worst_group(desk: Desk) -> None:
    desk.group = [f"g{i % 8}" for i in range(NUMBER)]
    desk.scores.loc[[0, 8, 2], "is_outlier"] = True  # bees; two of them of the four of group 0
    desk.run(drop_outliers=True)
    assert desk.metrics["retention_min_class"] == pytest.approx(13 / 16, abs=1e-6)
    assert desk.metrics["retention_min_group"] == pytest.approx(2 / 4)


def test_decisions_are_read_as_the_labels_of_the_round(desk: Desk) -> None:
    desk.flag([1, 2])
    desk.scores.loc[4, "is_outlier"] = True
    desk.run(labels=policy("relabel"), drop_outliers=True)
    read = store.read_labels(desk.root / "curate@1", desk.root / "ingest")
    assert len(read) == NUMBER - 1 and NAMES[4] not in set(read["id"])
    assert read["label"][[1, 2]].tolist() == ["bee", "ant"]


def test_two_runs_are_the_same_bytes(desk: Desk) -> None:
    desk.flag([1, 2])
    for name in ("a", "b"):
        desk.run(name, labels=policy("hybrid"))
    for file in ("decisions.parquet", "metrics.json"):
        assert (desk.root / "a" / file).read_bytes() == (desk.root / "b" / file).read_bytes()
