import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import clouds
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from winnow.data import audit, folds, neighbours, store
from winnow.data.judging import judge
from winnow.data.judging.opinions import Evidence
from winnow.data.stage import BadInput

SIZES = {"ant": 100, "bee": 100, "cat": 100}
NAMES = sorted(SIZES)


def noisy(
    labels: Sequence[str], rate: float, rows: Sequence[int] | None = None
) -> tuple[list[str], np.ndarray]:
    """Give a share of the labels another, uniformly; and where."""
    random = np.random.default_rng(5)
    rows = list(range(len(labels)) if rows is None else rows)
    wrong = random.choice(rows, round(rate * len(rows)), replace=False)
    given = list(labels)
    for i in wrong:
        given[i] = random.choice([name for name in NAMES if name != labels[i]])
    return given, np.isin(np.arange(len(labels)), wrong)


@pytest.mark.parametrize("groups", [0, 12])
def test_planted_labels_are_found(tmp_path: Path, groups: int) -> None:
    vectors, true = clouds.cloud(SIZES)
    given, wrong = noisy(true, 0.15)
    group = [f"g{i % groups}" for i in range(300)] if groups else None
    table, summary = clouds.run(clouds.write(tmp_path, vectors, given, group=group))
    assert f1_score(wrong, table["is_label_issue"]) >= 0.9
    hit = table[table["is_label_issue"] & wrong]
    assert (hit["suggested_label"] == np.array(true, object)[hit.index]).mean() >= 0.95
    assert summary["schemes"] == ["random", "grouped"][: 2 if groups else 1]
    assert summary["noise"]["posterior"] == pytest.approx(0.15, abs=0.04)
    assert not table["by_group"].any()
    assert sum(c["estimated_noise"] * c["n"] for c in summary["classes"]) / 300 == pytest.approx(
        0.15, abs=0.04
    )
    assert sum(pair["n"] for pair in summary["confusions"]) == table["is_label_issue"].sum()


def test_evidence_does_not_win_by_the_labels_that_it_chose() -> None:
    vectors, labels = clouds.cloud(SIZES)
    random, families = np.random.default_rng(7), np.arange(300)
    noisy_vectors = {
        name: vectors + random.normal(0, 5, vectors.shape).astype(np.float32) for name in ("first", "second")
    }
    evidence = {
        name: Evidence(part, neighbours.graph(part, k=10, exact_up_to=1000, seed=0))
        for name, part in noisy_vectors.items()
    }
    manifest = pd.DataFrame({"id": clouds.names(300), "label": labels, "split": "train", "group": None})
    index = np.searchsorted(NAMES, labels)
    fold = folds.deal(index, families, 5, seed=0)
    said = folds.out_of_fold(folds.linear(vectors, 3.0), noisy_vectors["first"], index, fold, 3)
    trusted = manifest["label"].where(said.argmax(1) == index, None)
    assert trusted.isna().mean() > 0.1
    summary = judge.judge_labels(
        manifest, evidence, trusted, families, clouds.JUDGE, exact_up_to=1000, seed=0
    ).summary
    shares = [int(share) for share in re.findall(r"(\d+)%", summary["evidence"])]
    assert min(shares) >= 15  # none at all, if trusted labels were the yardstick


def test_predictions_by_heart_would_find_nothing(tmp_path: Path) -> None:
    vectors, true = clouds.cloud(SIZES)
    given, wrong = noisy(true, 0.15)
    index = np.searchsorted(NAMES, given)
    by_heart = folds.fit_predict(folds.neighbours(vectors, 1), vectors, index, vectors, 3)
    assert (by_heart.argmax(1) == index).all()
    by_one = replace(clouds.JUDGE, neighbours=1)
    table, _ = clouds.run(clouds.write(tmp_path, vectors, given), judge=by_one)
    assert f1_score(wrong, table["is_label_issue"]) >= 0.6


def test_a_wrong_label_is_found_although_its_twins_share_it(tmp_path: Path) -> None:
    vectors, true = clouds.cloud(SIZES)
    given, wrong = noisy(true, 0.1)
    # Each wrong sample comes five times: the copies would vouch for each other.
    copies = np.concatenate([np.arange(300), *[np.flatnonzero(wrong)] * 4])
    payloads = [f"sample {i}".encode() for i in copies]
    ingest = clouds.write(tmp_path, vectors[copies], [given[i] for i in copies], payloads=payloads)
    table, _ = clouds.run(ingest)
    assert table["is_label_issue"][wrong[copies]].mean() >= 0.9
    assert (table["exact_duplicate_set"] >= 0).sum() == 5 * wrong.sum()


def test_labels_are_in_the_order_of_their_names_not_of_their_numbers(tmp_path: Path) -> None:
    # "10" stands before "9": columns in another order than labels would flag almost everything.
    vectors, labels = clouds.cloud({"10": 60, "9": 60, "11": 60, "-1": 60})
    table, summary = clouds.run(clouds.write(tmp_path, vectors, labels))
    assert table["is_label_issue"].sum() == 0
    assert [c["label"] for c in summary["classes"]] == ["-1", "10", "11", "9"]
    assert (table["suggested_label"] == labels).all()


def test_exact_and_near_duplicates_are_found_and_counted_over_splits(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud(SIZES)
    split = clouds.splits(300, validation=50, test=50)
    payloads = [f"sample {i}".encode() for i in range(300)]
    exact = [(0, 1), (10, 299), (20, 21, 210)]  # within train, over to test, over to validation
    near = [(30, 31), (40, 298)]
    for first, *others in exact:
        for other in others:
            payloads[other], vectors[other] = payloads[first], vectors[first]
            labels[other] = labels[first]
    labels[299] = NAMES[NAMES.index(labels[10]) - 1]  # twins of different labels
    for first, other in near:
        vectors[other], labels[other] = vectors[first] + 1e-3, labels[first]
    ingest = clouds.write(tmp_path, vectors, labels, split=split, payloads=payloads)
    table, summary = clouds.run(ingest)
    sets = table["exact_duplicate_set"]
    assert sets[sets >= 0].to_dict() == {0: 0, 1: 0, 10: 1, 299: 1, 20: 2, 21: 2, 210: 2}
    near_set = table["near_duplicate_set"]
    for first, other in near:
        assert near_set[first] == near_set[other] >= 0
    assert (near_set >= 0).sum() == 4
    assert summary["leakage"] == {
        "exact_across_splits": 5,
        "near_across_splits": 2,
        "groups_across_splits": 0,
        "conflicting_labels": 2,
    }
    counts = {check["name"]: check["n_flagged"] for check in summary["checks"]}
    assert (counts["exact_duplicate"], counts["near_duplicate"]) == (7, 4)


def test_groups_over_splits_are_counted(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud(SIZES)
    group: list[str | None] = [None] * 300
    group[0] = group[1] = "inside"
    group[2] = group[298] = group[299] = "across"
    split = clouds.splits(300, test=100)
    _, summary = clouds.run(clouds.write(tmp_path, vectors, labels, split=split, group=group))
    assert summary["leakage"]["groups_across_splits"] == 3


def test_planted_outliers_are_found(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud(SIZES)
    vectors[[3, 100, 299]] = 30 * np.eye(16)[[5, 6, 7]]
    table, _ = clouds.run(clouds.write(tmp_path, vectors, labels))
    assert table["is_outlier"][[3, 100, 299]].all()
    assert table["is_outlier"].sum() <= 3 + 6
    assert table["outlier_score"].nsmallest(3).index.isin([3, 100, 299]).all()


def test_a_check_flags_what_is_beyond_its_bounds_and_counts_what_was_measured(
    tmp_path: Path,
) -> None:
    vectors, labels = clouds.cloud(SIZES)
    seconds = np.full(300, 1.0)
    seconds[[0, 1, 2, 3]] = [0.1, 0.2, 9.0, np.nan]
    checks = {
        "short": audit.Check(measure="seconds", below=0.2),
        "odd": audit.Check(measure="seconds", below=0.15, above=5.0),
    }
    ingest = clouds.write(tmp_path, vectors, labels, seconds=seconds)
    table, summary = clouds.run(ingest, checks=checks)
    assert np.flatnonzero(table["is_short"]).tolist() == [0]  # 0.2 is not below 0.2
    assert np.flatnonzero(table["is_odd"]).tolist() == [0, 2]
    found = {check["name"]: check for check in summary["checks"]}
    assert found["odd"]["n_checked"] == 299
    assert found["odd"]["rule"] == "seconds < 0.15 or seconds > 5"
    assert found["odd"]["status"] == "ok"
    assert found["odd"]["rate"] == pytest.approx(2 / 299, abs=1e-6)


def test_what_could_not_be_measured_is_skipped_and_not_found_0_times(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud(SIZES)
    ingest = clouds.write(tmp_path, vectors, labels, snr_db=np.full(300, np.nan))
    checks = {"noisy": audit.Check(measure="snr_db", below=10.0)}
    table, summary = clouds.run(ingest, checks=checks)
    (found,) = (check for check in summary["checks"] if check["name"] == "noisy")
    assert (found["status"], found["n_checked"]) == ("skipped", 0)
    assert found["reason"]
    assert not table["is_noisy"].any()
    metrics = store.read_json(tmp_path / "audit@1" / "metrics.json")
    assert "noisy_flagged" not in metrics and metrics["outlier_flagged"] >= 0


@pytest.mark.parametrize("measure", ["second", "split"])
def test_a_check_of_what_is_no_measure_names_its_key_and_the_measures(tmp_path: Path, measure: str) -> None:
    vectors, labels = clouds.cloud(SIZES)
    ingest = clouds.write(tmp_path, vectors, labels, seconds=np.ones(300))
    with pytest.raises(BadInput, match=rf"audit\.checks\.short: no measure '{measure}'.*'seconds'"):
        clouds.run(ingest, checks={"short": audit.Check(measure=measure, below=0.2)})


def test_a_check_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="'seconds' needs `below` or `above`"):
        audit.Check(measure="seconds")


def test_rare_classes_are_all_counted(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud({"ant": 200, "bee": 200, "cat": 5, "dog": 4})
    _, summary = clouds.run(clouds.write(tmp_path, vectors, labels))
    (found,) = (check for check in summary["checks"] if check["name"] == "rare_class")
    assert (found["n_flagged"], found["n_checked"]) == (2, 4)


def test_unlabelled_samples_get_no_judgement_but_may_be_outliers(tmp_path: Path) -> None:
    vectors, true = clouds.cloud(SIZES)
    labels: list[str | None] = [None if i < 60 else label for i, label in enumerate(true)]
    vectors[0] = 30 * np.eye(16)[7]
    table, summary = clouds.run(clouds.write(tmp_path, vectors, labels))
    assert table["label_quality"][:60].isna().all() and table["label_quality"][60:].notna().all()
    assert table["suggested_label"][:60].isna().all()
    assert not table["is_label_issue"][:60].any()
    assert table["is_outlier"][0]
    assert summary["n"] == 240
    assert summary["leakage"]["conflicting_labels"] == 0


def test_a_class_of_two_samples_is_judged_like_any(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud({"ant": 60, "bee": 60, "cat": 2})
    table, summary = clouds.run(clouds.write(tmp_path, vectors, labels))
    assert table["label_quality"].notna().all()
    assert [c["n"] for c in summary["classes"]] == [60, 60, 2]


def test_a_class_that_is_in_the_test_split_alone_is_not_judged(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud({"ant": 60, "bee": 60})
    labels[-8:] = ["cat"] * 8
    split = clouds.splits(120, test=30)
    table, summary = clouds.run(clouds.write(tmp_path, vectors, labels, split=split))
    assert table["label_quality"][-8:].isna().all() and table["label_quality"][:-8].notna().all()
    assert summary["n"] == 112
    assert [(c["label"], c["estimated_noise"] is None) for c in summary["classes"]] == [
        ("ant", False), ("bee", False), ("cat", True),
    ]  # fmt: skip


def test_a_test_split_of_one_class_is_judged_too(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud({"ant": 60, "bee": 60})
    order = np.argsort(labels, kind="stable")
    split = clouds.splits(120, test=10)
    ingest = clouds.write(tmp_path, vectors[order], [labels[i] for i in order], split=split)
    table, _ = clouds.run(ingest)
    assert table["label_quality"][-10:].min() > 0.5


@pytest.mark.parametrize(
    "sizes, changed, message",
    [
        ({"ant": 80}, {}, "labels of 1 class"),
        ({"ant": 4, "bee": 4}, {}, "8 different samples are too few for 10 neighbours"),
        ({"ant": 4, "bee": 4}, {"neighbours": 2}, "no class has a sample for each of 5 folds"),
    ],
    ids=["one class", "fewer than neighbours", "fewer than folds"],
)
def test_too_little_data_is_refused_in_words(
    tmp_path: Path, sizes: dict[str, int], changed: dict[str, Any], message: str
) -> None:
    vectors, labels = clouds.cloud(sizes)
    ingest = clouds.write(tmp_path, vectors, labels)
    with pytest.raises(BadInput, match=message):
        clouds.run(ingest, judge=replace(clouds.JUDGE, **changed))


def test_fewer_groups_than_folds_are_a_fold_each(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud(SIZES)
    group = [f"g{i % 3}" for i in range(300)]
    table, _ = clouds.run(clouds.write(tmp_path, vectors, labels, group=group))
    assert table["label_quality"].notna().all()
    assert (table.groupby(group)["fold_grouped"].nunique() == 1).all()
    assert table["fold_grouped"].nunique() == 3


def test_what_is_wrong_with_a_whole_group_is_found_and_named(tmp_path: Path) -> None:
    # One of six speakers calls every ant a bee, and has a voice of its own.
    vectors, true = clouds.cloud(SIZES)
    group = np.arange(300) % 6
    vectors += 3 * np.eye(16)[[7]] * (group == 0)[:, None]
    wrong = (group == 0) & (np.array(true) == "ant")
    given = ["bee" if one else label for one, label in zip(wrong, true, strict=True)]
    ingest = clouds.write(tmp_path, vectors, given, group=[f"s{g}" for g in group])
    table, summary = clouds.run(ingest)
    assert table["by_group"][wrong].mean() >= 0.6
    assert table["by_group"][~wrong].sum() == 0
    assert (table["suggested_label"][table["by_group"]] == "ant").all()
    (cell,) = summary["cells"]
    assert (cell["group"], cell["label"], cell["suggested"]) == ("s0", "bee", "ant")
    assert not table.loc[wrong, ["by_margin", "by_filter"]].to_numpy().mean() > 0.5  # no other sees it


def test_several_annotators_are_weighed_and_their_consensus_is_given(tmp_path: Path) -> None:
    vectors, true = clouds.cloud(SIZES)
    random = np.random.default_rng(3)
    skill = {"good": 0.95, "fair": 0.8, "poor": 0.5}
    votes = [
        (id_, name, label if random.random() < good else random.choice(NAMES))
        for id_, label in zip(clouds.names(300), true, strict=True)
        for name, good in skill.items()
    ]
    given = [votes[3 * i + 2][2] for i in range(300)]
    table, summary = clouds.run(clouds.write(tmp_path, vectors, given, annotations=votes))
    assert (table["consensus_label"] == true).mean() > 0.97
    assert table["annotator_quality"].notna().all()
    assert [one["annotator"] for one in summary["annotators"]["annotators"]] == ["poor", "fair", "good"]


def test_nothing_is_learned_from_test_labels(tmp_path: Path) -> None:
    vectors, true = clouds.cloud(SIZES)
    given, _ = noisy(true, 0.1)
    split = clouds.splits(300, validation=40, test=80)
    permuted = [*given[:220], *np.random.default_rng(0).permutation(given[220:])]
    tables = []
    for name, labels in (("a", given), ("b", permuted)):
        ingest = clouds.write(tmp_path / name, vectors, labels, split=split)
        tables.append(clouds.run(ingest)[0])
    pd.testing.assert_frame_equal(tables[0][:220], tables[1][:220])
    assert tables[1]["is_label_issue"][220:].sum() > tables[0]["is_label_issue"][220:].sum()


def test_test_labels_are_judged_and_reported(tmp_path: Path) -> None:
    vectors, true = clouds.cloud(SIZES)
    given, wrong = noisy(true, 0.15, range(220, 300))
    ingest = clouds.write(tmp_path, vectors, given, split=clouds.splits(300, test=80))
    table, summary = clouds.run(ingest)
    assert f1_score(wrong, table["is_label_issue"]) >= 0.9
    # How noisy a class is, is said of the pool alone.
    assert all(c["estimated_noise"] <= 0.02 for c in summary["classes"])


def test_round_2_judges_the_labels_as_delivered_by_the_labels_as_decided(tmp_path: Path) -> None:
    vectors, true = clouds.cloud(SIZES)
    given, wrong = noisy(true, 0.35)
    ingest = clouds.write(tmp_path, vectors, given)
    decided = tmp_path / "curate@1"
    decided.mkdir()
    decisions = pd.DataFrame({"id": clouds.names(300), "label": given})
    decisions["action"] = np.where(wrong, "drop", "keep")
    store.write_table(decided / "decisions.parquet", decisions)
    first, _ = clouds.run(ingest)
    second, _ = clouds.run(ingest, "audit@2", decided)
    assert second["label_quality"].notna().all()
    assert f1_score(wrong, second["is_label_issue"]) >= f1_score(wrong, first["is_label_issue"])
    assert f1_score(wrong, second["is_label_issue"]) >= 0.95


def test_decisions_about_another_dataset_are_refused(tmp_path: Path) -> None:
    vectors, labels = clouds.cloud(SIZES)
    ingest = clouds.write(tmp_path, vectors, labels)
    decided = tmp_path / "curate@1"
    decided.mkdir()
    others = pd.DataFrame({"id": clouds.names(299), "label": labels[1:], "action": "keep"})
    store.write_table(decided / "decisions.parquet", others)
    with pytest.raises(ValueError, match="decides about other samples"):
        clouds.run(ingest, "audit@2", decided)


def test_two_audits_are_the_same_bytes_and_the_seed_matters(tmp_path: Path) -> None:
    vectors, true = clouds.cloud(SIZES)
    given, _ = noisy(true, 0.15)
    ingest = clouds.write(tmp_path, vectors, given)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        clouds.run(ingest, name, seed=seed)
    for name in ("issues.parquet", "summary.json", "metrics.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    scores = [store.read_table(tmp_path / n / "issues.parquet")["label_quality"] for n in "ac"]
    assert not scores[0].equals(scores[1])


def test_audits_what_ingest_wrote_of_every_modality(ingested: Path, tmp_path: Path) -> None:
    audit.main(
        "any", ingested, ingested, ingested / "descriptors", tmp_path, judge=clouds.JUDGE,
        near_fraction=0.13, exact_neighbours_up_to=1000, min_class_share=0.1, checks={},
        slicing=clouds.SLICING, seed=0, engine="local", workers=1,
    )  # fmt: skip
    manifest = store.read_table(ingested / "manifest.parquet")
    table = store.read_table(tmp_path / "issues.parquet")
    assert list(table["id"]) == list(manifest["id"])
    assert store.read_json(tmp_path / "summary.json")["oof_accuracy"] > 0.6
