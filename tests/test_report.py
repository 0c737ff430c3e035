import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted
import pytest
from test_page import Reader, require_self_contained

from winnow.data import claims, findings, report, store
from winnow.data.intervals import wilson
from winnow.data.modality import Modality


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_all(tmp_path_factory.mktemp("out"))


def run(home: Path, out: Path, examples: int = 24, rounds: tuple[int, ...] = (1, 2)) -> Path:
    out.mkdir(parents=True)
    report.main(planted.MODALITY, home / "ingest", home, out, rounds=list(rounds), examples=examples)
    return out


@pytest.fixture(scope="module")
def written(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(home, tmp_path_factory.mktemp("report") / "data")


@pytest.fixture(scope="module")
def found(written: Path) -> dict[str, Any]:
    return store.read_json(written / "report.json")


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return (written / "report.html").read_text()


def test_is_one_file_that_needs_nothing_else(html: str) -> None:
    require_self_contained(html)


def test_is_the_same_bytes_from_run_to_run(home: Path, written: Path, tmp_path: Path) -> None:
    again = run(home, tmp_path / "again")
    for name in ("report.html", "report.json", "metrics.json"):
        assert (again / name).read_bytes() == (written / name).read_bytes()


def test_the_page_is_a_function_of_its_json_and_the_previews(
    home: Path, found: dict[str, Any], html: str
) -> None:
    previews = report.preview(planted.MODALITY, home / "ingest", found)
    assert report.render(found, previews) == html


def test_a_number_that_is_changed_in_the_json_changes_on_the_page(home: Path, found: dict[str, Any]) -> None:
    previews = report.preview(planted.MODALITY, home / "ingest", found)
    changed = json.loads(json.dumps(found))
    changed["dataset"]["rejects"] = 987_654
    changed["rounds"][-1]["labels"]["precision"]["value"] = 0.12345
    shown = report.render(changed, previews)
    assert "987,654" in shown
    assert "12.3\u202f%" in shown


def test_scripts_in_labels_sources_reasons_and_texts_are_shown_and_not_run(html: str) -> None:
    assert html.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(&#39;xss&#39;)&lt;/script&gt;" in html
    assert not re.search(r"<b>\s*<script", html)


def test_no_folder_of_the_machine_is_told(written: Path, home: Path) -> None:
    for name in ("report.html", "report.json"):
        text = (written / name).read_text()
        assert "/home/" not in text and "someone" not in text
        assert str(home.parent) not in text


def test_scores_against_planted_labels_are_exact(found: dict[str, Any]) -> None:
    first, second = (one["labels"] for one in found["rounds"])
    assert (first["planted"], first["scored"], first["hits"], first["flagged"]) == (6, 8, 5, 9)
    assert first["precision"]["value"] == 5 / 8
    assert first["recall"]["value"] == pytest.approx(5 / 6)
    assert first["f1"] == pytest.approx(2 * (5 / 8) * (5 / 6) / (5 / 8 + 5 / 6))
    assert (first["precision"]["low"], first["precision"]["high"]) == pytest.approx(wilson(5, 8))
    assert second["precision"]["value"] == second["recall"]["value"] == second["f1"] == 1
    assert first["suggestion"]["value"] == 1


def test_metrics_are_flat_and_hold_the_scores(written: Path) -> None:
    metrics = store.read_json(written / "metrics.json")
    assert metrics["round1_label_precision"] == 0.625
    assert metrics["round2_label_recall"] == 1
    assert metrics["round1_label_issues"] == 9
    assert (metrics["round1_dropped"], metrics["round1_kept"]) == (8, 52)
    assert (metrics["delivered_wrong_labels"], metrics["round1_wrong_labels"]) == (6, 1)
    assert metrics["round2_wrong_labels"] == 0
    assert all(isinstance(value, int | float) for value in metrics.values())


def test_scores_are_unknown_where_no_wrong_label_is_known(home: Path) -> None:
    table = joined(home)
    table["true_label"] = table["given"]
    scores = findings.labels(table)
    assert scores["flagged"] == 9
    assert scores["precision"] is scores["recall"] is scores["f1"] is None


def test_truth_of_the_test_split_is_not_shown(found: dict[str, Any]) -> None:
    examples = [example for one in found["rounds"] for example in one["label_examples"]]
    shown = [example for example in examples if example["split"] == "test"]
    assert shown and all(example["true_label"] is None for example in shown)


def joined(home: Path, number: int = 1) -> pd.DataFrame:
    return findings.join(
        store.read_table(home / "ingest/manifest.parquet"),
        store.read_table(home / "ingest/truth.parquet"),
        store.read_table(home / f"audit@{number}/issues.parquet"),
        store.read_table(home / f"curate@{number}/decisions.parquet"),
    )


@pytest.mark.parametrize(
    "touched",
    [
        {"action": "drop"},
        {"action": "relabel", "label": planted.EVIL},
        {"action": "keep", "label": planted.EVIL},
        {"action": "keep", "label": None},
    ],
)
def test_a_decision_about_a_test_sample_stops_the_report(tmp_path: Path, touched: dict[str, Any]) -> None:
    home = planted.write_all(tmp_path)
    planted.decide(home, 2, **touched)
    with pytest.raises(ValueError, match="round 2 touches 1 samples of the test split"):
        run(home, tmp_path / "report")


def test_the_statement_about_the_test_split_names_what_was_checked(found: dict[str, Any], html: str) -> None:
    assert found["test_split"]["n"] == 12
    assert found["test_split"]["rounds"] == [1, 2]
    assert found["test_split"]["fingerprint"] in html


def test_tables_about_other_samples_stop_the_report(home: Path) -> None:
    manifest = store.read_table(home / "ingest/manifest.parquet")
    truth = store.read_table(home / "ingest/truth.parquet")
    issues = store.read_table(home / "audit@1/issues.parquet")
    decisions = store.read_table(home / "curate@1/decisions.parquet")
    with pytest.raises(ValueError, match="the issues are about other samples"):
        findings.join(manifest, truth, issues[1:], decisions)
    with pytest.raises(ValueError, match="the decisions are about other samples"):
        findings.join(manifest, truth, issues, decisions[1:])


def test_what_was_skipped_or_failed_has_no_number(found: dict[str, Any], html: str) -> None:
    checks = {check["name"]: check for check in found["rounds"][-1]["checks"]}
    assert checks["short"]["n_flagged"] == 2
    for name in ("garbled", "language"):
        assert checks[name]["n_flagged"] is checks[name]["rate"] is None
        row = html[html.index(f"<b>{name}</b>") :].partition("</tr>")[0]
        assert checks[name]["status"] in row
        assert not re.search(r">0(\.0)?\b", row)
    gate = next(gate for gate in found["gates"] if gate["name"] == "Checks")
    assert gate["status"] == "fail" and "language" in gate["text"]


def test_a_histogram_counts_every_finite_value_once(found: dict[str, Any]) -> None:
    check = found["rounds"][-1]["checks"][0]
    histogram = check["histogram"]
    assert sum(histogram["rest"]) == 58 and sum(histogram["flagged"]) == 2
    assert histogram["thresholds"] == [3.0]
    assert [example["value"] for example in check["examples"]] == [1.0, 1.0]


def test_the_worst_of_a_check_with_two_bounds_are_the_farthest_beyond_either() -> None:
    values = [0.1, 5.0, 20.0, 11.0]
    table = pd.DataFrame({"seconds": values, "id": list("abcd"), "given": "x", "split": "train"})
    table["source"], table["is_odd"] = "s", [True, False, True, True]
    check = planted.check("odd", "ok", rule="seconds < 0.2 or seconds > 10", n_flagged=3, rate=0.75)
    (shown,) = findings.checks([check], table, 2)
    assert [example["id"] for example in shown["examples"]] == ["c", "d"]
    assert shown["histogram"]["thresholds"] == [0.2, 10.0]


def test_sets_of_duplicates_that_cross_splits_come_first_and_whole(found: dict[str, Any]) -> None:
    near, exact = (found["rounds"][-1][name] for name in ("near", "exact"))
    assert (near["sets"], near["samples"]) == (1, 3)
    assert near["shown"][0]["crosses_splits"] and near["shown"][0]["labels_disagree"]
    assert len(near["shown"][0]["members"]) == 3
    assert not exact["shown"][0]["crosses_splits"]


def test_the_members_shown_of_a_large_set_are_those_it_disagrees_about() -> None:
    table = pd.DataFrame({"id": [f"{i:02}" for i in range(20)], "given": "a", "split": "train"})
    table["source"], table["set"] = "s", 0
    table.loc[19, "given"], table.loc[18, "split"] = "b", "test"
    (shown,) = findings.duplicates(table, "set", 24)["shown"]
    assert [one["id"] for one in shown["members"]] == ["00", "18", "19", "01", "02", "03"]


def test_shows_no_more_examples_than_asked(home: Path, tmp_path: Path) -> None:
    found = store.read_json(run(home, tmp_path / "few", examples=2) / "report.json")
    last = found["rounds"][-1]
    assert len(last["label_examples"]) == len(last["outliers"]["examples"]) == 2
    assert sum(len(one["members"]) for one in last["near"]["shown"]) <= 2
    assert last["labels"]["flagged"] == 7


def test_inputs_are_samples_and_rejects_to_the_row(found: dict[str, Any]) -> None:
    assert found["dataset"]["inputs"] == 62 == found["dataset"]["samples"] + found["rejects"]["n"]
    assert sum(row["n"] for row in found["rejects"]["reasons"]) == 2


def test_decisions_are_counted_to_the_row(found: dict[str, Any]) -> None:
    for one in found["rounds"]:
        assert sum(one["decided"].values()) == sum(row["n"] for row in one["actions"]) == 60


class Loud(type(planted.MODALITY)):  # type: ignore[misc]
    """A modality whose previews are too large for a page."""

    def preview(self, payload: bytes) -> str:
        return "<p>" + "x" * 300_000 + "</p>"


def test_the_page_stays_small_and_says_what_was_left_out(home: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    modality = Loud(length=8, vocabulary=64)
    report.main(modality, home / "ingest", home, tmp_path / "big", rounds=[1, 2], examples=24)
    html = (tmp_path / "big/report.html").read_text()
    found = store.read_json(tmp_path / "big/report.json")
    assert len(html.encode()) < 5_000_000
    assert found["previews"]["left_out"] > 0
    assert f"{found['previews']['left_out']} previews left out" in html


def test_every_round_that_is_asked_for_is_reported(home: Path, tmp_path: Path) -> None:
    found = store.read_json(run(home, tmp_path / "one", rounds=(1,)) / "report.json")
    assert [one["round"] for one in found["rounds"]] == [1]
    assert [probe["round"] for probe in found["probes"]] == [0, 1]


def test_the_real_previews_of_a_modality_fetch_and_run_nothing(modality: Modality, ingested: Path) -> None:
    for _, payload in store.payloads(ingested):
        reader = Reader(modality.preview(payload))
        assert all(url.startswith("data:") for url in reader.fetched)
        assert not {"script", "link", "iframe", "style"} & set(reader.tags)


def accuracy(hits: int, trials: int) -> dict[str, float]:
    low, high = wilson(hits, trials)
    return {"value": hits / trials, "low": low, "high": high}


def test_a_change_within_the_noise_is_no_measurable_gain() -> None:
    judged = claims.gain(accuracy(90, 100), accuracy(92, 100))
    assert judged is not None and judged["verdict"] == "no measurable gain"
    assert judged["low_points"] < 0 < judged["high_points"]
    gained = claims.gain(accuracy(900, 1000), accuracy(950, 1000))
    lost = claims.gain(accuracy(950, 1000), accuracy(900, 1000))
    assert gained is not None and gained["verdict"] == "gain"
    assert lost is not None and lost["verdict"] == "loss"
    assert claims.gain(accuracy(1, 2), None) is None


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe 1998, table II, (a): 56/70 - 48/80, method 10.
    found = claims.difference(accuracy(48, 80), accuracy(56, 70))
    assert found["low"] == pytest.approx(0.0524, abs=1e-4)
    assert found["high"] == pytest.approx(0.3339, abs=1e-4)


def test_the_interval_of_a_difference_holds_its_level() -> None:
    random = np.random.default_rng(0)
    first, second = random.binomial(200, 0.85, 2000), random.binomial(200, 0.9, 2000)
    held = 0
    for a, b in zip(first, second, strict=True):
        found = claims.difference(accuracy(int(a), 200), accuracy(int(b), 200))
        held += found["low"] <= 0.05 <= found["high"]
    assert 0.94 < held / 2000 < 0.965


def test_a_judge_that_only_guesses_fails_its_gate(found: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(found))
    changed["rounds"][-1]["accuracy"] = accuracy(30, 60)
    gate = next(gate for gate in claims.gates(changed) if gate["name"] == "Judge")
    assert gate["status"] == "fail"
