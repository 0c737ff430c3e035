import os
from pathlib import Path

import pytest
from rawdata import files, read, reasons

from winnow.data.sources.files import Folder
from winnow.data.stage import BadInput


def test_a_folder_gives_a_class_per_folder_in_sorted_order(tmp_path: Path):
    files(tmp_path, "cat/2.txt", "cat/1.txt", "cat/deep/er/3.txt", "ant/1.txt", "loose.txt")
    records = read(Folder(labels="folders"), tmp_path)
    assert [(r.source, r.label) for r in records] == [
        ("ant/1.txt", "ant"),
        ("cat/1.txt", "cat"),
        ("cat/2.txt", "cat"),
        ("cat/deep/er/3.txt", "cat"),
        ("loose.txt", None),
    ]
    assert records[0].raw == b"content of ant/1.txt"
    assert {r.split for r in records} == {None}


def test_folders_named_like_splits_are_splits(tmp_path: Path):
    files(tmp_path, "train/cat/1.txt", "val/cat/1.txt", "Test/ant/1.txt")
    records = read(Folder(labels="folders"), tmp_path)
    found = {r.source: (r.split, r.label) for r in records}
    assert found == {
        "train/cat/1.txt": ("train", "cat"),
        "val/cat/1.txt": ("validation", "cat"),
        "Test/ant/1.txt": ("test", "ant"),
    }
    assert {r.label for r in read(Folder(labels="none"), tmp_path)} == {None}


def test_a_class_may_be_named_train(tmp_path: Path):
    files(tmp_path, "train/1.txt", "plane/1.txt")
    records = read(Folder(labels="folders"), tmp_path)
    assert {(r.label, r.split) for r in records} == {("train", None), ("plane", None)}


def test_splits_beside_other_folders_are_refused(tmp_path: Path):
    files(tmp_path, "train/1.txt", "test/1.txt", "docs/1.txt")
    with pytest.raises(BadInput, match=r"splits .*'test', 'train'.* other folders .*'docs'"):
        read(Folder(labels="folders"), tmp_path)


def test_what_cannot_be_a_sample_keeps_its_reason(tmp_path: Path):
    root = files(tmp_path / "raw", "a/1.txt", "a/2.pdf", "a/noending", "a/.hidden", ".git/x.txt")
    files(tmp_path, "outside.txt")
    (root / "a/link.txt").symlink_to(tmp_path / "outside.txt")
    (root / "a/inside.txt").symlink_to(root / "a/1.txt")
    (root / "a/loop.txt").symlink_to(root / "a/loop.txt")
    (root / "a/gone.txt").symlink_to(root / "a/nowhere.txt")
    (root / "a/folder").symlink_to(root / "a")
    found = reasons(read(Folder(labels="folders"), root))
    assert set(found) == {*("a/2.pdf", "a/noending", "a/link.txt", "a/loop.txt", "a/gone.txt", "a/folder")}
    assert found["a/2.pdf"] == "ending '.pdf' is none of .txt"
    assert "leaves the folder" in found["a/link.txt"]
    assert "missing" in found["a/gone.txt"]
    assert "link" in found["a/loop.txt"] and "link" in found["a/folder"]


def test_a_name_in_another_encoding_is_escaped(tmp_path: Path):
    (tmp_path / os.fsdecode(b"K\xe4se.txt")).write_bytes(b"brie")
    (record,) = read(Folder(labels="folders"), tmp_path)
    assert record.source == r"K\xe4se.txt" and record.raw == b"brie"


def test_endings_in_capitals_count(tmp_path: Path):
    assert not reasons(read(Folder(labels="none"), files(tmp_path, "A.TXT")))


def test_an_empty_folder_is_refused_by_name(tmp_path: Path):
    (tmp_path / "empty" / "er").mkdir(parents=True)
    with pytest.raises(BadInput, match=rf"{tmp_path}.*empty.*\.txt"):
        read(Folder(labels="folders"), tmp_path)


def test_a_file_is_no_folder(tmp_path: Path):
    with pytest.raises(BadInput, match=r"is no folder.*Table"):
        read(Folder(labels="folders"), files(tmp_path, "a.txt") / "a.txt")
