from pathlib import Path

import planted

from winnow.data.pages import chapters


def test_drift_counts_what_was_tested_and_skips_what_was_not(tmp_path: Path) -> None:
    planted.write_drift(tmp_path)
    test, version = chapters.drift(tmp_path)["comparisons"]
    assert (test["tested"], test["drifted"]) == (2, 1)
    assert [row["status"] for row in test["features"]] == ["ok", "ok", "skipped"]
    assert test["features"][0]["drifted"] is True  # the most drifted first
    assert (version["status"], version["tested"], version["drifted"]) == ("skipped", 0, None)


def test_slices_that_were_not_judged_are_told_with_their_reason() -> None:
    summary = planted.summary(1)
    summary["slices"].append({"by": "seconds", "status": "skipped", "reason": "no sample has a value"})
    found = chapters.slices(summary, 1)
    assert (found["n"], found["worse"]) == (2, 1)
    assert found["rows"][0]["worse"]
    assert found["left_out"] == [{"by": "seconds", "reason": "no sample has a value"}]


def test_annotators_that_were_skipped_are_no_empty_table() -> None:
    summary = planted.summary(1)
    summary["annotators"] = {"status": "skipped", "reason": "the source names no annotators"}
    found = chapters.annotators(summary, 1)
    assert (found["status"], found["n"]) == ("skipped", None)
    assert found["reason"] == "the source names no annotators"


def test_the_least_reliable_annotator_stands_first() -> None:
    rows = chapters.annotators(planted.summary(1), 1)["rows"]
    assert [row["quality"] for row in rows] == [0.4, 0.8]


def test_the_log_is_counted_by_action_and_who_decided(tmp_path: Path) -> None:
    path = tmp_path / "curate@1" / "actions.jsonl"
    path.parent.mkdir()
    path.write_text(
        '{"action": "drop", "decided_by": "policy"}\n' * 3 + '{"action": "relabel", "decided_by": "human"}\n'
    )
    found = chapters.log(path.parent)
    assert found["n"] == 4
    assert [(row["action"], row["n"]) for row in found["counts"]] == [("drop", 3), ("relabel", 1)]


def test_a_missing_key_names_itself_and_its_file(tmp_path: Path) -> None:
    planted.write_json(tmp_path / "drift" / "drift.json", {})
    found = chapters.drift(tmp_path)
    assert found["status"] == "error"
    assert found["reason"] == "drift/drift.json has no 'comparisons': run its stage again"
