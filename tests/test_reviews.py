import csv
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from desk import HEADER, NAMES, OLD_HEADER, Desk, label_policy, queue
from test_label_studio import annotation, full

from winnow.data import store
from winnow.data.deciding import label_studio, reviews
from winnow.data.modality import Modality
from winnow.data.stage import BadInput


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.write()
    return desk


def manifest(desk: Desk) -> pd.DataFrame:
    return store.read_table(desk.root / "ingest" / "manifest.parquet")


def read(desk: Desk, text: str) -> list[reviews.Review]:
    path = desk.root / "reviews.csv"
    path.write_text(text, encoding="utf-8")
    return reviews.read(path, manifest(desk))


def command(desk: Desk, *words: Any) -> None:
    reviews.main([*map(str, words), "--ingest", str(desk.root / "ingest")])


def import_(desk: Desk, exported: Path) -> str:
    command(desk, "import", "text", exported, "--reviews", desk.root / "reviews.csv")
    return (desk.root / "reviews.csv").read_text(encoding="utf-8")


def test_a_spreadsheets_mark_and_blank_lines_are_no_matter(desk: Desk) -> None:
    (found,) = read(desk, f"\ufeff{HEADER}\n{NAMES[3]},drop,,Jo,,blind\n\n")
    assert (found.id, found.action, found.stratum) == (NAMES[3], "drop", "blind")


def test_a_file_from_before_there_were_strata_is_read(desk: Desk) -> None:
    (found,) = read(desk, f"{OLD_HEADER}{NAMES[3]},drop,,Jo,\n")
    assert found.stratum == ""


@pytest.mark.parametrize(
    "line, message",
    [
        ("ffff,drop,,Jo,,", "line 4: no sample has the id 'ffff'; remove the line"),
        (f"{NAMES[0]},keep,,Jo,,", f"line 4: '{NAMES[0]}' was decided in line 2 already; remove"),
        (f"{NAMES[5]},delete,,Jo,,", r"line 4: action 'delete' is none of \('keep', 'relabel', 'drop"),
        (f"{NAMES[5]},relabel,cow,Jo,,", r"line 4: label 'cow' is none of \['ant', 'bee'\]"),
        (f"{NAMES[5]},relabel,,Jo,,", r"line 4: label '' is none of \['ant', 'bee'\]"),
        (f"{NAMES[39]},drop,,Jo,,", f"line 4: {NAMES[39]} is a test sample.*Mend it at the source"),
        (f"{NAMES[5]},drop,,Jo,,random", "line 4: stratum 'random' is none of"),
        (f"{NAMES[5]},drop,,Jo,dark, too,", "line 4: not 6 values; a note with a comma.*quotes"),
        (f"{NAMES[5]},drop", "line 4: not 6 values"),
    ],
    ids=[
        "unknown id", "twice", "unknown action", "unknown label", "no label", "test sample",
        "unknown stratum", "too many values", "too few values",
    ],
)  # fmt: skip
def test_a_review_that_cannot_be_carried_out_names_file_line_and_remedy(
    desk: Desk, line: str, message: str
) -> None:
    with pytest.raises(BadInput, match=rf"reviews\.csv, {message}"):
        read(desk, f"{HEADER}{NAMES[0]},keep,,Jo,,\n\n{line}\n")


@pytest.mark.parametrize("header", ["", "id,label,action,reviewer,note\n", "id;action\n"])
def test_wrong_columns_are_named_with_the_right_ones(desk: Desk, header: str) -> None:
    with pytest.raises(BadInput, match=r"reviews\.csv: columns are .*, not \['id', .*'stratum'\]; write"):
        read(desk, header)


def test_the_queue_goes_around_through_label_studio(desk: Desk, tmp_path: Path) -> None:
    desk.flag([1, 3, 4])
    desk.run(queue=queue(suspects=3, blind=5))
    command(desk, "export", "text", desk.out / "queue.json", "--media", tmp_path / "labelling")
    tasks = json.loads((tmp_path / "labelling" / "tasks.json").read_text())
    assert len(tasks) == 8 and (tmp_path / "labelling" / "config.xml").exists()

    # Three suspects: mended, kept, left out; the blind ones are as delivered but for the last.
    answers: dict[str, str | None] = {NAMES[1]: "bee", NAMES[3]: "ant", NAMES[4]: None}
    blind = [task["data"]["sample"] for task in tasks if task["data"]["sample"] not in answers]
    for id_ in blind:
        answers[id_] = desk.labels[NAMES.index(id_)]
    last = NAMES.index(blind[-1])
    answers[blind[-1]] = "ant" if desk.labels[last] == "bee" else "bee"
    exported = []
    for task in tasks:
        choice = answers[task["data"]["sample"]]
        done = annotation({"id": 1, "email": "jo@x.org"}, choice, out=choice is None, note='a, "b"\n<i>c</i>')
        exported.append(full(task["data"]["sample"], done) | {"data": task["data"]})
    path = tmp_path / "export.json"
    path.write_text("\ufeff" + json.dumps(exported), encoding="utf-8")

    written = import_(desk, path)
    lines = {line["id"]: line for line in csv.DictReader(io.StringIO(written))}
    assert len(lines) == 8
    assert lines[NAMES[1]] | {"note": ""} == {
        "id": NAMES[1], "action": "relabel", "label": "bee",
        "reviewer": "jo@x.org", "note": "", "stratum": "suspect",
    }  # fmt: skip
    assert lines[NAMES[1]]["note"] == 'a, "b"\n<i>c</i>'
    assert lines[NAMES[3]]["action"] == "keep" and lines[NAMES[4]]["action"] == "drop"
    assert {lines[id_]["stratum"] for id_ in blind} == {"blind"}
    assert import_(desk, path) == written  # once more changes nothing

    desk.reviews = written
    found = desk.run("curate@2", labels=label_policy("drop"), queue=queue(suspects=3, blind=5))
    assert found["action"][[1, 3, 4]].tolist() == ["relabel", "keep", "drop"]
    assert found["label"][1] == "bee" and (found["decided_by"][[1, 3, 4]] == "human").all()
    assert desk.summary["missed"]["reviewed"] == 5 and desk.summary["missed"]["wrong"] == 1
    assert desk.summary["confirmed"]["reviewed"] == 3 and desk.summary["confirmed"]["wrong"] == 2
    asked = pd.read_csv(desk.out / "queue.csv", dtype=str)
    assert not set(asked["id"]) & set(answers)


def test_a_queue_filled_in_a_spreadsheet_is_imported(desk: Desk) -> None:
    desk.flag([1, 3])
    desk.run(queue=queue(suspects=2, blind=2))
    path = desk.out / "queue.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["reviewer"] = "Jo"
    table.loc[table["id"] == NAMES[1], ["action", "label"]] = ["relabel", "bee"]
    table.loc[table["id"] == NAMES[3], ["action", "label"]] = ["keep", "ant"]
    table.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n")
    written = import_(desk, path)
    assert written == f"{HEADER}{NAMES[1]},relabel,bee,Jo,,suspect\n{NAMES[3]},keep,,Jo,,suspect\n"


def test_a_label_without_an_action_is_not_passed_over(desk: Desk) -> None:
    path = desk.root / "queue.csv"
    path.write_text(f"id,action,label,reviewer,note,ticket\n{NAMES[1]},,bee,,,\n")
    with pytest.raises(SystemExit, match="line 2: a label without an action"):
        import_(desk, path)


def test_an_old_file_gains_the_column_and_keeps_its_lines(desk: Desk) -> None:
    path = desk.root / "reviews.csv"
    path.write_text(f'{OLD_HEADER}{NAMES[5]},drop,,Jo,"a, b"\n')
    new = reviews.Review(0, NAMES[1], "relabel", "bee", "Al", "", "blind")
    assert reviews.append(path, [new], manifest(desk)) == (1, 0)
    assert path.read_text() == f'{HEADER}{NAMES[5]},drop,,Jo,"a, b",\n{NAMES[1]},relabel,bee,Al,,blind\n'
    assert reviews.append(path, [new], manifest(desk)) == (0, 1)


def test_lines_are_added_behind_what_is_there_even_without_a_line_end(desk: Desk) -> None:
    path = desk.root / "reviews.csv"
    there = f'{HEADER}"{NAMES[5]}",drop,,Jo,"odd quotes",'
    path.write_text(there)
    reviews.append(path, [reviews.Review(0, NAMES[1], "keep", "", "", "", "")], manifest(desk))
    assert path.read_text() == f"{there}\n{NAMES[1]},keep,,,,\n"


@pytest.mark.parametrize(
    "new, message",
    [
        (
            (NAMES[5], "keep", ""),
            f"{NAMES[5]} is drop by Jo there, and {NAMES[5]} is keep by Al in the import",
        ),
        ((NAMES[39], "drop", ""), "is a test sample"),
        ((NAMES[6], "relabel", "cow"), "label 'cow' is none of"),
        (("ffff", "drop", ""), "no sample has the id 'ffff'"),
    ],
    ids=["contradiction", "test sample", "unknown label", "unknown id"],
)
def test_a_bad_import_writes_nothing(desk: Desk, new: tuple[str, str, str], message: str) -> None:
    path = desk.root / "reviews.csv"
    path.write_text(before := f"{HEADER}{NAMES[5]},drop,,Jo,,\n")
    fine = reviews.Review(0, NAMES[1], "keep", "", "Al", "", "")
    with pytest.raises(BadInput, match=message):
        reviews.append(path, [fine, reviews.Review(0, *new, "Al", "", "")], manifest(desk))
    assert path.read_text() == before


def test_ids_of_another_dataset_are_named(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps([full(f"x{i}", annotation(1, "ant")) for i in range(7)]))
    with pytest.raises(SystemExit, match=r"7 ids are of no sample of this dataset: x0, x1, x2, x3, x4 …"):
        import_(desk, path)


def test_the_divided_are_told_and_stay_open(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "export.json"
    tasks = [full(NAMES[1], annotation(1, "ant"), annotation(2, "bee")), full(NAMES[2], annotation(1, "bee"))]
    path.write_text(json.dumps(tasks))
    written = import_(desk, path)
    assert NAMES[1] not in written and f"{NAMES[2]},keep,,1,," in written
    said = capsys.readouterr().out
    assert "1 decisions added" in said and f"divided on 1, which stay open: {NAMES[1]}" in said


def test_media_are_written_as_the_tasks_name_them(
    modality: Modality, ingested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payloads = dict(list(store.payloads(ingested))[:3])
    text = (
        {id_: payload.decode() for id_, payload in payloads.items()}
        if modality.media_type == "text/plain"
        else {}
    )
    tasks = [label_studio.task(id_, "t", modality.media_type, text.get(id_), None) for id_ in payloads]
    label_studio.write_tasks(tmp_path / "queue.json", tasks)
    folder = tmp_path / "labelling"
    words = ["export", "x", tmp_path / "queue.json", "--media", folder, "--ingest", ingested]
    reviews.main([*map(str, words)])
    written = {path.name: path.read_bytes() for path in (folder / "media").iterdir()}
    ending = modality.media_type.partition("/")[2]
    assert written == ({} if text else {f"{id_}.{ending}": payload for id_, payload in payloads.items()})
    assert (folder / "tasks.json").read_bytes() == (tmp_path / "queue.json").read_bytes()
    assert str(folder) in capsys.readouterr().out


def test_a_missing_file_is_named(desk: Desk) -> None:
    with pytest.raises(SystemExit, match=r"reviews import: .*nowhere\.json does not exist"):
        import_(desk, desk.root / "nowhere.json")


def test_help_says_how_it_goes_around(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reviews", "--help"])
    monkeypatch.delitem(sys.modules, "winnow.data.deciding.reviews")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("winnow.data.deciding.reviews", run_name="__main__")
    assert ended.value.code == 0
    assert "Label Studio" in capsys.readouterr().out
