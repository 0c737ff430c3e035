import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import planted
import pytest

from winnow.data import store
from winnow.data.pages import acceptance, schema
from winnow.data.pages.gates import Limits


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_all(tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def written(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_report(home, tmp_path_factory.mktemp("report") / "data") / "report.json"


def code(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        acceptance.command([str(word) for word in argv])
    return int(left.value.code or 0)


def with_gates(report: Path, out: Path, status: str) -> Path:
    content = store.read_json(report)
    for gate in content["gates"]:
        gate["status"] = status
    content["verdict"]["status"] = status
    out.write_text(json.dumps(content))
    return out


@pytest.mark.parametrize(("status", "expected"), [("pass", 0), ("warn", 0), ("fail", 1)])
def test_the_exit_code_is_one_only_if_a_gate_fails(
    written: Path, tmp_path: Path, status: str, expected: int
) -> None:
    assert code("--gate", with_gates(written, tmp_path / "report.json", status)) == expected


def test_of_several_reports_the_worst_decides(written: Path, tmp_path: Path) -> None:
    good = with_gates(written, tmp_path / "good.json", "pass")
    assert code("--gate", good, with_gates(written, tmp_path / "bad.json", "fail")) == 1


def test_every_gate_is_printed_with_its_value_and_limits(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code("--gate", written) == 1  # planted has a check that failed
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("text: fail")
    for gate in store.read_json(written)["gates"]:
        (line,) = [line for line in printed if f" {gate['name']} " in line]
        assert line.split()[0] == gate["status"] and gate["text"] in line


@pytest.mark.parametrize("content", [None, "no JSON", "{}", '{"schema_version": 1}'])
def test_what_is_no_report_exits_with_two_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    assert code("--gate", path) == 2
    assert str(path) in capsys.readouterr().err


def test_the_command_line_of_the_stage_has_the_gates_and_says_so(written: Path) -> None:
    python = [sys.executable, "-m", "winnow.data.report"]
    helped = subprocess.run([*python, "--help"], capture_output=True, text=True, check=True)
    assert "--gate" in helped.stdout and "--accept" in helped.stdout
    asked = subprocess.run([*python, "--gate", str(written)], capture_output=True, text=True)
    assert asked.returncode == 1 and "checks_failed" in asked.stdout


def test_an_accepted_report_is_the_same_file(written: Path, tmp_path: Path) -> None:
    assert code("--accept", written, tmp_path / "new" / "text.json") == 0
    assert (tmp_path / "new" / "text.json").read_bytes() == written.read_bytes()


def test_what_is_no_report_is_not_accepted(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    assert code("--accept", tmp_path / "report.json", tmp_path / "accepted.json") == 2
    assert not (tmp_path / "accepted.json").exists()


def again(tmp_path: Path, accepted: dict[str, Any], **numbers: Any) -> dict[str, Any]:
    home = planted.write_all(tmp_path)
    planted.write_json(planted.accepted(tmp_path), accepted)
    return store.read_json(planted.write_report(home, tmp_path / "again", **numbers) / "report.json")


def test_before_the_first_accepted_report_nothing_is_compared(written: Path) -> None:
    diff = store.read_json(written)["diff"]
    assert (diff["status"], diff["new"]) == ("skipped", None)


def test_nothing_is_new_or_resolved_in_the_report_that_was_accepted(written: Path, tmp_path: Path) -> None:
    diff = again(tmp_path, store.read_json(written))["diff"]
    assert (diff["status"], diff["new"], diff["resolved"]) == ("ok", 0, 0)
    # There is something to compare with now, and nothing new: the one gate that was skipped for it passes.
    assert diff["gates"] == [{"title": "New issues", "then": "skipped", "now": "pass"}]


def test_new_resolved_and_gone_issues_are_told_apart(written: Path, tmp_path: Path) -> None:
    before = store.read_json(written)
    ids = planted.ids()
    then = pd.DataFrame({"id": [*ids, "gone"], "is_label_issue": False})
    then["near_duplicate_set"] = then["exact_duplicate_set"] = -1
    # Round 2 flags 0 to 5 and 50.
    then.loc[[0, 1, 2, 30, 31, 60], "is_label_issue"] = True
    before["flagged"] = acceptance.flagged(then)
    diff = again(tmp_path, before)["diff"]
    row = next(row for row in diff["checks"] if row["check"] == "label_issue")
    assert {key: row[key] for key in ("then", "now", "new", "resolved", "gone")} == {
        "then": 6, "now": 7, "new": 4, "resolved": 2, "gone": 1,
    }  # fmt: skip
    assert row["new_ids"] == [ids[i] for i in (3, 4, 5, 50)]


def test_gates_that_changed_are_named_with_what_they_were(written: Path, tmp_path: Path) -> None:
    after = again(
        tmp_path, store.read_json(written), gates={**planted.LIMITS, "label_noise": Limits(0.0, 0.01)}
    )
    assert {"title": "Label noise", "then": "warn", "now": "fail"} in after["diff"]["gates"]


def test_an_accepted_report_of_another_version_is_an_error_and_no_silence(tmp_path: Path) -> None:
    found = again(tmp_path, {"schema_version": 1})
    assert found["diff"]["status"] == "error" and "version 1" in found["diff"]["reason"]
    gate = next(gate for gate in found["gates"] if gate["name"] == "chapters")
    assert gate["value"] == 1 and "diff" in gate["text"]


def test_ids_of_half_a_million_samples_hardly_ever_share_a_hash() -> None:
    table = pd.DataFrame({"id": [f"{i:020x}" for i in range(20_000)], "is_label_issue": True})
    table["near_duplicate_set"] = table["exact_duplicate_set"] = -1
    joined = acceptance.flagged(table)["label_issue"]
    assert len(joined) == 8 * 20_000
    assert len({joined[i : i + 8] for i in range(0, len(joined), 8)}) == 20_000


def test_a_report_that_breaks_its_schema_is_refused_with_the_place(written: Path) -> None:
    content = store.read_json(written)
    schema.require_valid(content)
    content["rounds"][0]["labels"]["flagged"] = -1
    with pytest.raises(ValueError, match=r"\$\.rounds\[0\]\.labels\.flagged of the report breaks"):
        schema.require_valid(content)
