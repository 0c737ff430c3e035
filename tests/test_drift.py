from pathlib import Path
from typing import Any

import clouds
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from winnow.data import drift, store
from winnow.data.comparing import comparison, splits
from winnow.data.comparing.domain import Classifier
from winnow.data.stage import BadInput

CLASSIFIER = Classifier(rows=400, folds=4, directions=32, shrinkage=0.1, min_auc=0.55)
SETTINGS: dict[str, Any] = {
    "classifier": CLASSIFIER, "permutations": 599, "alpha": 0.05, "min_effect": 0.1, "projections": 8,
    "seed": 0,
}  # fmt: skip
SIZE = 700


def make(root: Path, seed: int = 0, **changed: Any) -> Path:
    """700 samples, 200 of them for testing and 100 for validation, that are all alike."""
    random = np.random.default_rng(1000 + seed)
    settings: dict[str, Any] = {
        "vectors": random.normal(size=(SIZE, 12)).astype(np.float32),
        "labels": random.choice(["bread", "butter", "cheese"], SIZE),
        "split": clouds.splits(SIZE, validation=100, test=200),
        "seconds": random.gamma(2, 0.5, SIZE),
        "peak_dbfs": random.normal(-10, 3, SIZE),
        "native_rate_hz": np.full(SIZE, 8000.0),
    }
    plain = {name: list(changed[name]) for name in ("labels", "split", "group") if name in changed}
    return clouds.write(root, **{**settings, **changed, **plain})


def run(ingest: Path, accepted: Path | None = None, name: str = "drift", **changed: Any) -> dict[str, Any]:
    out = ingest.parent / name
    out.mkdir()
    if accepted is None:
        accepted = ingest.parent / "accepted.json"
        accepted.write_text("{}")
    drift.main("text", ingest, accepted, out, **{**SETTINGS, **changed})
    found = store.read_json(out / "drift.json")
    return {compared["name"]: compared for compared in found["comparisons"]}


def drifted(compared: dict[str, Any]) -> set[str]:
    rows = [*compared["features"], *(compared[key] for key in ("label_shift", "groups", "domain"))]
    return {row["name"] for row in rows if row["drifted"]}


TEST = np.arange(SIZE) >= 500


def test_finds_a_shifted_measure_and_nothing_else(tmp_path: Path) -> None:
    seconds = np.random.default_rng(0).gamma(2, 0.5, SIZE) + 0.4 * TEST
    found = run(make(tmp_path, seconds=seconds))
    assert drifted(found["test"]) == {"seconds"} and found["test"]["n_drifted"] == 1
    assert drifted(found["validation"]) == set()
    (row,) = (row for row in found["test"]["features"] if row["name"] == "seconds")
    train = np.array(clouds.splits(SIZE, validation=100, test=200)) == "train"
    known = scipy.stats.ks_2samp(seconds[train], seconds[TEST])
    assert row["effect"] == pytest.approx(known.statistic, abs=0.006)
    assert row["effect_name"] == "Kolmogorov–Smirnov D" and row["p"] == pytest.approx(1 / 600, abs=1e-6)
    assert row["mean_b"] - row["mean_a"] == pytest.approx(
        seconds[TEST].mean() - seconds[train].mean(), abs=1e-4
    )
    assert row["shift"] > 0.3


def test_finds_a_shift_of_labels_and_says_of_which(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shares = [0.6, 0.2, 0.15, 0.05], [0.3, 0.5, 0.2, 0.0]
    classes = np.array(["bread", "butter", "cheese", "olives"])
    labels = [random.choice(classes, p=shares[int(second)]) for second in TEST]
    found = run(make(tmp_path, labels=labels))["test"]
    assert drifted(found) == {"label_shift"}
    shift = found["label_shift"]
    assert shift["effect"] == pytest.approx(0.35, abs=0.06) and shift["effect_name"] == "total variation"
    assert [row["label"] for row in shift["classes"]][:2] == ["butter", "bread"]
    assert shift["only_a"] == ["olives"] and shift["only_b"] == []


def test_finds_samples_of_another_domain_where_no_measure_differs(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(SIZE, 12)).astype(np.float32)
    vectors[TEST, :3] += 0.5
    found = run(make(tmp_path, vectors=vectors))
    assert drifted(found["test"]) == {"domain"} and drifted(found["validation"]) == set()
    domain = found["test"]["domain"]
    assert domain["effect"] == domain["auc"] > 0.6
    assert domain["low"] < domain["auc"] < domain["high"] and domain["low"] > 0.5
    assert domain["chance"] == pytest.approx(0.5, abs=0.02)


def test_finds_values_that_went_missing(tmp_path: Path) -> None:
    snr = np.where(TEST & (np.arange(SIZE) % 2 == 0), np.nan, np.random.default_rng(0).normal(size=SIZE))
    found = run(make(tmp_path, snr_db=snr))["test"]
    kinds = {(row["name"], row["kind"]): row["drifted"] for row in found["features"]}
    assert kinds["snr_db", "missing"] is True and kinds["snr_db", "measure"] is False


def test_random_splits_do_not_differ(tmp_path: Path) -> None:
    alarms = tests = 0
    for seed in range(20):
        found = run(make(tmp_path / str(seed), seed, group=[f"g{i % 30}" for i in range(SIZE)]))
        for name in ("validation", "test"):
            assert found[name]["unit"] == "sample", "groups that stand in all splits were not split by"
            alarms += found[name]["n_drifted"]
            tests += found[name]["n_tests"]
    assert tests == 20 * 2 * 6
    assert alarms <= 2


def by_speakers(root: Path, seed: int, shift: float = 0.0) -> Path:
    """28 speakers of 25 samples: each is as loud as it is, and in one split alone."""
    random = np.random.default_rng(2000 + seed)
    speaker = np.arange(SIZE) // 25
    dealt = random.permutation(28)[speaker]
    split = np.where(dealt < 16, "train", np.where(dealt < 21, "validation", "test"))
    loud = random.normal(-20, 6, 28)[speaker] + random.normal(size=SIZE) + shift * (split == "test")
    vectors = 3 * random.normal(size=(28, 12))[speaker] + random.normal(size=(SIZE, 12))
    names = [f"speaker {i}" for i in speaker]
    return make(root, seed, vectors=vectors.astype(np.float32), split=split, group=names, peak_dbfs=loud)


def test_splits_by_speakers_do_not_differ_however_different_speakers_are(tmp_path: Path) -> None:
    alarms, naive = 0, 0
    for seed in range(20):
        compared = run(by_speakers(tmp_path / str(seed), seed))
        for found in (compared["validation"], compared["test"]):
            assert found["unit"] == "group" and "whole groups are dealt" in found["reason"]
            assert found["groups"]["status"] == "skipped" and found["groups"]["shared"] == 0
            alarms += found["n_drifted"] > 0
            (row,) = (row for row in found["features"] if row["name"] == "peak_dbfs")
            naive += row["effect"] > 0.15
            assert row["chance"] > 0.1
    assert alarms <= 4
    assert naive > 20, "to tests of single samples nearly all of these would differ"


def test_louder_speakers_in_the_test_split_are_found_all_the_same(tmp_path: Path) -> None:
    assert "peak_dbfs" in drifted(run(by_speakers(tmp_path, 0, shift=20.0))["test"])


def test_of_too_few_groups_nothing_is_said_but_how_large_differences_are(tmp_path: Path) -> None:
    group = np.where(TEST, "theo", np.array(["ada", "bob", "cleo"])[np.arange(SIZE) % 3])
    split = np.where(TEST, "test", "train")
    found = run(make(tmp_path, group=group, split=split, seconds=1.0 + TEST))
    compared = found["test"]
    assert compared["status"] == "skipped" and "none is sure (no p below 0.25)" in compared["reason"]
    assert compared["n_drifted"] is None and compared["n_tests"] == 0
    (row,) = (row for row in compared["features"] if row["name"] == "seconds")
    assert row["effect"] == 1 and row["status"] == "skipped"
    assert row["p"] is row["q"] is row["drifted"] is None, "not tested is not the same as no drift"
    assert "none can be held out" in compared["domain"]["reason"]
    assert found["validation"]["status"] == "skipped"
    assert found["validation"]["reason"] == "there is no sample in validation"
    metrics = store.read_json(tmp_path / "drift" / "metrics.json")
    assert "test_drifted" not in metrics and metrics["test_tests"] == 0


def test_many_samples_make_a_tiny_difference_sure_and_no_alarm() -> None:
    random = np.random.default_rng(0)
    size = 200_000
    manifest = pd.DataFrame({"id": np.arange(size), "split": np.where(np.arange(size) % 2, "train", "test")})
    manifest["label"] = pd.Series([None] * size, dtype=object)
    manifest["group"] = pd.Series([None] * size, dtype=object)
    manifest["seconds"] = random.normal(size=size) + 0.05 * (manifest["split"] == "test")
    found = splits.compare(manifest, "test", ["seconds"], alpha=0.05, permutations=499, seed=0)
    comparison.judge(found, alpha=0.05, min_effect=0.1, min_auc=0.55)
    (row,) = found["features"]
    assert row["q"] < 0.01 and row["drifted"] is False
    assert found["label_shift"]["reason"] == "there are no labels"


def test_the_verdict_is_over_all_tests_together() -> None:
    rows = [
        comparison.skipped(f"m{i}", "measure", "") | {"p": p, "effect": 0.3, "chance": 0.1}
        for i, p in enumerate([0.001, 0.02, 0.04, 0.9, 0.8, 0.7])
    ]
    compared = comparison.comparison("test", "train", "test", 1, 1) | {"features": rows}
    comparison.judge(compared, alpha=0.05, min_effect=0.1, min_auc=0.55)
    q = scipy.stats.false_discovery_control([row["p"] for row in rows])
    assert [row["q"] for row in rows] == pytest.approx(list(q), abs=1e-6)
    assert [row["drifted"] for row in rows] == [True, False, False, False, False, False]
    assert compared["n_tests"] == 6 and compared["n_drifted"] == 1
    assert compared["domain"]["drifted"] is None


def accept(ingest: Path, name: str = "drift") -> Path:
    path = ingest.parent / "report.json"
    profile = store.read_json(ingest.parent / name / "profile.json")
    store.write_json(path, {"schema_version": 2, "profile": profile})
    return path


def test_the_version_that_was_accepted_does_not_differ_from_itself_and_a_changed_one_does(
    tmp_path: Path,
) -> None:
    ingest = make(tmp_path / "old")
    assert "no version was accepted yet" in run(ingest)["previous"]["reason"]
    accepted = accept(ingest)
    same = run(ingest, accepted, "again")["previous"]
    assert same["status"] == "ok" and same["n_drifted"] == 0 and same["retained"] == 1
    assert {row["effect"] for row in same["features"]} == {0.0}

    random = np.random.default_rng(0)
    vectors = random.normal(size=(SIZE, 12)).astype(np.float32)
    vectors[:, 0] += 3
    labels = random.choice(["bread", "butter", "cheese"], SIZE, p=[0.8, 0.1, 0.1])
    new = make(tmp_path / "new", 5, vectors=vectors, labels=labels, native_rate_hz=np.full(SIZE, 16000.0))
    found = run(new, accepted)["previous"]
    shown = drifted(found)
    assert {"native_rate_hz", "label_shift"} <= shown and any(name.startswith("descriptor") for name in shown)
    assert not {"seconds", "peak_dbfs", "groups", "domain"} & shown
    assert (found["n_a"], found["n_b"]) == (SIZE, SIZE)
    assert found["label_shift"]["classes"][0]["label"] == "bread"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "no version was accepted yet"),
        ('{"schema_version": 2}', "has no profile"),
        ('{"profile": {"schema_version": 99}}', "of another form"),
    ],
)
def test_with_nothing_to_compare_with_versions_are_skipped_with_a_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "accepted.json").write_text(text)
    found = run(make(tmp_path), tmp_path / "accepted.json")["previous"]
    assert found["status"] == "skipped" and reason in found["reason"]
    assert found["n_drifted"] is None and found["features"] == []


@pytest.mark.parametrize("text", ["", "[]", "{'profile'"])
def test_a_file_that_is_no_report_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "accepted.json").write_text(text)
    with pytest.raises(BadInput, match=r"accepted\.json is no"):
        run(make(tmp_path), tmp_path / "accepted.json")


def test_too_few_permutations_for_any_test_to_succeed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"drift\.permutations: 99 are too few .* ask for 340 or more"):
        run(make(tmp_path), permutations=99)


def test_two_runs_are_the_same_bytes_and_the_seed_matters(tmp_path: Path) -> None:
    ingest = by_speakers(tmp_path, 0)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(ingest, name=name, seed=seed)
    for name in ("drift.json", "profile.json", "metrics.json"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in "ab")
        assert one == other
    assert (tmp_path / "a" / "drift.json").read_bytes() != (tmp_path / "c" / "drift.json").read_bytes()


def test_compares_what_ingest_wrote_of_every_modality(ingested: Path, tmp_path: Path) -> None:
    accepted = tmp_path / "accepted.json"
    accepted.write_text("{}")
    out = tmp_path / "drift"
    out.mkdir()
    drift.main("any", ingested, accepted, out, **{**SETTINGS, "permutations": 1999})
    for compared in store.read_json(out / "drift.json")["comparisons"][:2]:
        assert compared["features"]
        assert all(row["drifted"] in (True, False) for row in compared["features"] if row["status"] == "ok")
    assert (out / "profile.json").stat().st_size < 100_000
