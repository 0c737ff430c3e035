import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rawdata import files, read, reasons, write_csv

from winnow.data.sources.records import Record
from winnow.data.sources.tables import Table
from winnow.data.stage import BadInput

ROWS = [
    {"body": "Hé, “you”\nthere", "kind": "x", "n": 1, "part": "train", "who": "ann"},
    {"body": "b, c", "kind": "", "n": 2, "part": "dev", "who": ""},
    {"body": "", "kind": "y", "n": 3, "part": "", "who": "bob"},
]


def as_separated(separator: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pd.DataFrame(ROWS).to_csv(path, index=False, sep=separator)

    return write


def as_json_lines(path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def as_parquet(path: Path) -> None:
    pd.DataFrame(ROWS).to_parquet(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", as_separated(",")),
        ("t.tsv", as_separated("\t")),
        ("t.csv.gz", as_separated(",")),
        ("t.jsonl", as_json_lines),
        ("t.jsonl.gz", as_json_lines),
        ("t.parquet", as_parquet),
    ],
)
def test_all_formats_of_a_table_give_the_same_records(
    tmp_path: Path, name: str, write: Callable[[Path], None]
):
    write(tmp_path / name)
    source = Table(text="body", label="kind", split="part", group="who", id="n")
    assert read(source, tmp_path / name) == [
        Record(f"{name}#1", "Hé, “you”\nthere".encode(), None, "x", "train", "ann"),
        Record(f"{name}#2", b"b, c", None, None, "validation", None),
        Record(f"{name}#3", b"", None, "y", None, "bob"),
    ]


def test_texts_of_several_columns_are_joined(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", ("title", "body"), ("a", "b"))
    (record,) = read(Table(text=["title", "body"]), path)
    assert record.raw == b"a\nb" and record.source == "t.csv#1"


def test_a_column_of_targets_is_read_as_text(tmp_path: Path):
    rows = (
        {"t": "a", "said": " Hé there"},
        {"t": "b", "said": 2.0},
        {"t": "c", "said": ""},
        {"t": "d", "said": 0.25},
    )
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(Table(text="t", target="said"), path)
    assert [record.target for record in found] == ["Hé there", "2", None, "0.25"]
    with pytest.raises(BadInput, match="has no column 'spoken'"):
        read(Table(text="t", target="spoken"), path)


def test_missing_cells_of_parquet_are_missing(tmp_path: Path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"text": ["a", None], "label": [1.0, None]}).to_parquet(path)
    assert [(r.raw, r.label) for r in read(Table(text="text", label="label"), path)] == [
        (b"a", "1"),
        (b"", None),
    ]


def test_a_table_of_paths_beside_its_files(tmp_path: Path):
    files(tmp_path, "media/a/1.txt", "media/2.txt")
    write_csv(tmp_path / "t.csv", ("f", "y"), ("a/1.txt", "p"), ("2.txt", "q"))
    source = Table(table="t.csv", path="f", label="y", root="media")
    assert [(r.source, r.label) for r in read(source, tmp_path)] == [
        ("media/a/1.txt", "p"),
        ("media/2.txt", "q"),
    ]
    assert read(source, tmp_path)[0].raw == b"content of media/a/1.txt"


def test_bad_paths_of_a_table_keep_their_reasons(tmp_path: Path):
    root = files(tmp_path / "raw", "1.txt", "2.pdf", "sub/3.txt")
    files(tmp_path, "secret.txt")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    names = [
        *("1.txt", "gone.txt", "../secret.txt", str(root / "1.txt"), "link.txt", "2.pdf"),
        *("", "sub", "./1.txt", "sub/../1.txt", "sub/../../secret.txt", "sub/3.txt"),
    ]
    write_csv(root / "t.csv", ("f", "y"), *((name, "x") for name in names))
    records = read(Table(table="t.csv", path="f", label="y"), root)
    assert [r.source for r in records if r.reason is None] == ["1.txt", "sub/3.txt"]
    found = {number: r.reason or "" for number, r in enumerate(records, 1)}
    expected = {
        2: "'gone.txt' is missing",
        3: "leaves the folder",
        4: "absolute",
        5: "leaves the folder",
        6: "'.pdf' is none of",
        7: "empty",
        8: "is no file",
        9: "already stands in row 1",
        10: "already stands in row 1",
        11: "leaves the folder",
    }
    for number, part in expected.items():
        assert part in found[number]
    assert all(r.raw is None for r in records if r.reason)


def test_bad_cells_of_a_table_keep_their_reasons(tmp_path: Path):
    path = write_csv(
        tmp_path / "t.csv",
        ("id", "text", "label", "split"),
        ("1", "a", "cat", "train"),
        ("1", "b", "cat", "train"),
        ("", "c", "cat", "train"),
        ("4", "d", "cow", "train"),
        ("5", "e", "cat", "tset"),
        ("6", "f", "", "test"),
        ("7", "too", "many", "test", "cells"),
        ("8", "few"),
    )
    source = Table(text="text", label="label", split="split", id="id", classes=["cat", "dog"])
    found = reasons(read(source, path))
    records = read(source, path)
    assert len(records) == 8
    assert [r.source for r in records if r.reason is None] == ["t.csv#1", "t.csv#6"]
    assert [r.reason for r in records if r.reason] == [
        "id '1' of row 2 already stands in row 1",
        "row 3 has no id",
        "label 'cow' is none of cat, dog",
        "split 'tset' is none of train, training, validation, valid, val, dev, test, testing",
        "5 cells, but the header has 4",
        "2 cells, but the header has 4",
    ]
    assert found["t.csv#4"].startswith("label 'cow'")
    assert next(r for r in records if r.source == "t.csv#6").label is None


def test_broken_lines_of_json_keep_their_reasons(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"\n[1]\n')
    assert [r.reason and r.reason[:8] for r in read(Table(text="text"), path)] == [
        None,
        "not JSON",
        "not a JS",
    ]


def test_json_that_python_cannot_hold_is_one_reject_and_half_a_character_is_escaped(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    deep = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    path.write_text("\n".join([deep, f'{{"text": {"9" * 5000}}}', r'{"text": "\ud83d!", "y": "\ud83d"}']))
    *bad, good = read(Table(text="text", label="y"), path)
    assert len(bad) == 2 and all((record.reason or "").startswith("not JSON") for record in bad)
    assert (good.raw, good.label) == (rb"\ud83d!", r"\ud83d")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_named_and_can_be_set(tmp_path: Path, encoding: str):
    path = write_csv(tmp_path / "t.csv", ("text",), ("Käse",), encoding=encoding)
    with pytest.raises(BadInput, match=r"t\.csv is not utf-8.*'encoding'"):
        read(Table(text="text"), path)
    assert read(Table(text="text", encoding=encoding), path)[0].raw == "Käse".encode()


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", ("a", "b"), ("1", "2"))
    with pytest.raises(BadInput, match=r"t\.csv has no column 'text'.*'a', 'b'"):
        read(Table(text="text"), path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", b"", "has no rows"),
        ("t.csv", b"text\n", "has no rows"),
        ("t.csv", b'text\n"never closed\n', "line 2"),
        ("t.xlsx", b"PK", "'.xlsx' is none of"),
        ("t.parquet", b"PAR1 or not", "cannot be read"),
        ("t.csv.gz", b"not gzip", "cannot be read"),
        ("t.csv.gz", gzip.compress(b"text\nabc\n" * 99)[:-20], "cannot be read"),
    ],
    ids=["nothing", "header", "quote", "excel", "parquet", "gzip", "truncated"],
)
def test_an_unreadable_table_is_refused_by_name(tmp_path: Path, name: str, content: bytes, reason: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=reason) as refusal:
        read(Table(text="text"), tmp_path / name)
    assert name in str(refusal.value)


def test_a_folder_needs_the_name_of_its_table(tmp_path: Path):
    with pytest.raises(BadInput, match="key 'table'"):
        read(Table(text="text"), tmp_path)


def test_text_or_path_but_not_both():
    with pytest.raises(ValueError, match="one of text and path"):
        Table(text="a", path="b")
    with pytest.raises(ValueError, match="one of text and path"):
        Table(label="a")


def crowd(tmp_path: Path, *rows: tuple[str, ...]) -> Path:
    return write_csv(tmp_path / "t.csv", ("text", "given", "ann", "bob", "eve"), *rows)


def test_the_label_is_what_most_annotators_say(tmp_path: Path):
    path = crowd(tmp_path, ("a", "", "x", "y", "y"), ("b", "", "", "x", ""), ("c", "", "", "", " "))
    records = read(Table(text="text", annotators=["ann", "bob", "eve"]), path)
    assert [r.label for r in records] == ["y", "x", None]
    assert [dict(r.annotations) for r in records] == [{"ann": "x", "bob": "y", "eve": "y"}, {"bob": "x"}, {}]


def test_of_labels_that_tie_the_annotator_listed_first_decides(tmp_path: Path):
    path = crowd(tmp_path, ("a", "", "z", "y", ""), ("b", "", "z", "y", "y"))
    for annotators, labels in ((["ann", "bob", "eve"], ["z", "y"]), (["bob", "ann"], ["y", "y"])):
        assert [r.label for r in read(Table(text="text", annotators=annotators), path)] == labels


def test_a_column_of_labels_wins_over_annotators(tmp_path: Path):
    path = crowd(tmp_path, ("a", "x", "y", "y", "y"), ("b", "", "y", "y", "y"))
    records = read(Table(text="text", label="given", annotators=["ann", "bob", "eve"]), path)
    assert [r.label for r in records] == ["x", None]
    assert all(len(r.annotations) == 3 for r in records)


def test_an_annotation_that_is_no_class_keeps_its_annotator(tmp_path: Path):
    path = crowd(tmp_path, ("a", "", "x", "q", ""))
    source = Table(text="text", annotators=["ann", "bob"], classes=["x", "y"])
    assert reasons(read(source, path)) == {"t.csv#1": "bob 'q' is none of x, y"}


def test_a_missing_annotator_is_named(tmp_path: Path):
    with pytest.raises(BadInput, match=r"no column 'joe'"):
        read(Table(text="text", annotators=["ann", "joe"]), crowd(tmp_path, ("a", "", "x", "y", "z")))


@pytest.mark.parametrize("name", ["a\0b.txt", "x" * 5000 + ".txt"], ids=["zero", "long"])
def test_a_path_that_is_no_name_of_a_file_is_rejected(tmp_path: Path, name: str):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"f": name}) + "\n")
    ((_, reason),) = reasons(read(Table(path="f"), path)).items()
    assert "is no name of a file" in reason
