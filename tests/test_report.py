import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted
import pytest
from test_page import Reader, require_self_contained

from winnow.data import report, store
from winnow.data.intervals import wilson
from winnow.data.modality import Modality
from winnow.data.pages import chapters, claims, findings, gates, previews, questions


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_all(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def written(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_report(home, tmp_path_factory.mktemp("report") / "data")


@pytest.fixture(scope="module")
def found(written: Path) -> dict[str, Any]:
    return store.read_json(written / "report.json")


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return (written / "report.html").read_text()


def test_is_one_file_that_needs_nothing_else(html: str) -> None:
    require_self_contained(html)


def test_is_the_same_bytes_from_run_to_run(home: Path, written: Path, tmp_path: Path) -> None:
    again = planted.write_report(home, tmp_path / "again")
    for name in ("report.html", "report.json", "metrics.json"):
        assert (again / name).read_bytes() == (written / name).read_bytes()


def test_the_page_is_a_function_of_its_json_and_the_previews(
    home: Path, found: dict[str, Any], html: str
) -> None:
    made = previews.make(planted.MODALITY, home / "ingest", found)
    assert report.render(found, made) == html


def test_a_number_that_is_changed_in_the_json_changes_on_the_page(home: Path, found: dict[str, Any]) -> None:
    made = previews.make(planted.MODALITY, home / "ingest", found)
    changed = json.loads(json.dumps(found))
    changed["dataset"]["rejects"] = 987_654
    changed["rounds"][-1]["labels"]["precision"]["value"] = 0.12345
    shown = report.render(changed, made)
    assert "987,654" in shown
    assert "12.3\u202f%" in shown


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def seen(html: str) -> set[str]:
    """Every number that a reader sees, as it is written; what a drawing is made of is none."""
    text = re.sub(r"(?s)<(style|script|svg)\b.*?</\1>|<[^>]*>", " ", html)
    return set(NUMBER.findall(unescape(text)))


def all_the_same(content: Any, whole: int, share: float) -> Any:
    """Put one number for every number of a report, but those that say which round it is."""
    if isinstance(content, dict):
        kept = {"round", "schema_version"}
        return {
            key: value if key in kept else all_the_same(value, whole, share) for key, value in content.items()
        }
    if isinstance(content, list):
        return [all_the_same(value, whole, share) for value in content]
    if isinstance(content, bool) or not isinstance(content, int | float):
        return content
    return whole if isinstance(content, int) else share


def texts(content: Any) -> str:
    if isinstance(content, dict):
        return " ".join([*content, *map(texts, content.values())])
    return " ".join(map(texts, content)) if isinstance(content, list) else str(content)


def test_no_number_stands_on_the_page_that_is_not_from_the_json(home: Path, found: dict[str, Any]) -> None:
    blank = dict.fromkeys(previews.make(planted.MODALITY, home / "ingest", found), "")
    pages = [seen(report.render(found, blank))]
    for whole, share in ((1_234_567, 0.8317), (7_654_321, 0.2739)):
        pages.append(seen(report.render(all_the_same(found, whole, share), blank)))
    stay = set.intersection(*pages) - set(NUMBER.findall(texts(found)))
    assert stay <= {"95", "0.5"}  # of the intervals, and the AUC of chance


def test_scripts_in_labels_sources_reasons_and_texts_are_shown_and_not_run(html: str) -> None:
    assert html.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert(&#39;xss&#39;)&lt;/script&gt;" in html
    assert not re.search(r"<b>\s*<script", html)


HOSTILE = [
    "</style></script><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "\u202eevil\u2066",
    "a\x00b\x1b[31m\x07",
    "x" * 20_000,
    "{{ 7 * 7 }}{% raw %}",
    "\ud7ff\uffff\U0001f468\u200d\U0001f469",
    "--><!--",
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=repr)
def test_no_text_of_a_dataset_breaks_the_page(found: dict[str, Any], hostile: str) -> None:
    written = json.dumps(found).replace(json.dumps(planted.EVIL)[1:-1], json.dumps(hostile)[1:-1])
    html = report.render(json.loads(written), {})
    require_self_contained(html)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", html)
    tags = Reader(html).tags
    assert tags == Reader(report.render(found, {})).tags


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
        planted.write_report(home, tmp_path / "report")


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
    gate = next(gate for gate in found["gates"] if gate["name"] == "checks_failed")
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
    found = store.read_json(planted.write_report(home, tmp_path / "few", examples=2) / "report.json")
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
    planted.write_report(home, tmp_path / "big", modality=Loud(length=8, vocabulary=64))
    html = (tmp_path / "big/report.html").read_text()
    found = store.read_json(tmp_path / "big/report.json")
    assert len(html.encode()) < 5_000_000
    assert found["previews"]["left_out"] > 0
    assert f"{found['previews']['left_out']} previews left out" in html


def test_a_preview_is_decoded_when_it_comes_into_view_and_never_moves_the_page(html: str) -> None:
    for image in re.findall(r"<img [^>]*>", html):
        assert 'loading="lazy"' in image and "width=" in image and "height=" in image


def test_states_of_sections_say_which_gate_put_them_there(found: dict[str, Any]) -> None:
    sections = {section["key"]: section for section in found["sections"]}
    assert sections["checks"]["status"] == "fail" and "language" in sections["checks"]["reason"]
    assert sections["drift"]["status"] == "warn" and "Drifted features" in sections["drift"]["reason"]
    assert sections["diff"]["status"] == "skipped"
    assert sections["provenance"] == {
        "key": "provenance", "letter": "", "title": "Provenance", "status": "ok", "reason": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "absent",
    [
        "drift/drift.json",
        "effect/effect.json",
        "curate@2/queue.csv",
        "curate@2/actions.jsonl",
        "embed/embeddings",
    ],
)
def test_what_is_absent_is_an_error_that_names_it_and_no_zero(tmp_path: Path, absent: str) -> None:
    home = planted.write_all(tmp_path)
    (home / absent).rename(home / f"{absent}.gone")
    found = store.read_json(planted.write_report(home, tmp_path / "report") / "report.json")
    (broken,) = [name for name in chapters.NAMES if found[name]["status"] == "error"]
    assert absent.rpartition("/")[2] in found[broken]["reason"]
    gate = next(gate for gate in found["gates"] if gate["name"] == "chapters")
    assert gate["value"] == 1 and broken in gate["text"]


def test_a_key_that_a_stage_left_out_is_an_error_and_no_silence(tmp_path: Path) -> None:
    home = planted.write_all(tmp_path)
    summary = planted.summary(2)
    del summary["slices"], summary["detectors"]
    planted.write_json(home / "audit@2" / "summary.json", summary)
    found = store.read_json(planted.write_report(home, tmp_path / "report") / "report.json")
    assert found["slices"]["reason"] == "audit@2/summary.json has no 'slices': run its stage again"
    assert found["rounds"][1]["judged_by"]["status"] == "error"
    gate = next(gate for gate in found["gates"] if gate["name"] == "chapters")
    assert gate["value"] == 2


def test_which_rows_of_the_queue_are_a_blind_sample_is_told_nowhere(found: dict[str, Any]) -> None:
    assert [one["id"] for one in found["queue"]["head"]] == [planted.ids()[i] for i in (50, 13, 14)]
    assert all(set(one) == {"id", "label", "split", "source"} for one in found["queue"]["head"])


def test_every_round_that_is_asked_for_is_reported(home: Path, tmp_path: Path) -> None:
    found = store.read_json(planted.write_report(home, tmp_path / "one", rounds=[1]) / "report.json")
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
    (gate,) = gates.judge(changed, {"judge": gates.Limits(None, 0.0)}, questions.GATES)
    assert gate["status"] == "fail"
