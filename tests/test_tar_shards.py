import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest
from conftest import png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rawdata import PNG, picture, read, reasons, write_shards, write_tar

from winnow.data.sources import tar_shards
from winnow.data.sources.tar_shards import WebDataset
from winnow.data.stage import BadInput


def write_texts(path: Path, count: int = 5) -> Path:
    members = {}
    for number in range(count):
        members |= {f"{number}.txt": f"text {number}" * 200, f"{number}.cls": "ab"[number % 2]}
    return write_tar(path, members)


def test_members_side_by_side_are_a_sample_with_its_class_and_group(tmp_path: Path):
    records = read(WebDataset(), write_shards(tmp_path), PNG)
    assert [r.source for r in records][:2] == ["test-000.tar/000.png", "test-000.tar/001.png"]
    assert [r.label for r in records] == ["0", "1"] * 9
    assert [r.group for r in records][:6] == [f"camera {i // 2}" for i in range(6)]
    assert [r.split for r in records] == ["test"] * 6 + ["train"] * 12
    with tarfile.open(tmp_path / "test-000.tar") as tar:
        assert records[1].raw == tar.extractfile("001.png").read()


@pytest.mark.parametrize("name", ["7.tar", "7.tar.gz", "7.tgz"])
def test_packed_shards_give_the_same_records(tmp_path: Path, name: str):
    members = {"./deep/er/a.b.txt": "one", "deep/er/a.cls": " x\n", "deep/er/b.txt": "two"}
    records = read(WebDataset(), write_tar(tmp_path / name, members))
    assert [(r.source, r.raw, r.label, r.split) for r in records] == [
        (f"{name}/deep/er/a.b.txt", b"one", "x", None),
        (f"{name}/deep/er/b.txt", b"two", None, None),
    ]
    assert read(WebDataset(), tmp_path / name) == records


def test_braces_and_stars_choose_shards_and_their_order(tmp_path: Path):
    for number in (8, 9, 10, 11):
        write_texts(tmp_path / f"part-{number:03}.tar", 1)
    write_texts(tmp_path / "more/z.tar", 1)
    chosen = {"train": ["part-{010..011}.tar", "part-{008,009}.tar"], "test": "more/*.tar"}
    assert [(r.split, r.source) for r in read(WebDataset(shards=chosen), tmp_path)] == [
        ("train", "part-010.tar/0.txt"),
        ("train", "part-011.tar/0.txt"),
        ("train", "part-008.tar/0.txt"),
        ("train", "part-009.tar/0.txt"),
        ("test", "more/z.tar/0.txt"),
    ]
    with pytest.raises(BadInput, match=r"no shard 'part-012.tar', which 'shards' asks for by 'part-\{011"):
        read(WebDataset(shards="part-{011..012}.tar"), tmp_path)
    with pytest.raises(BadInput, match=r"part-008.tar more than once"):
        read(WebDataset(shards=["part-008.tar", "part-00*.tar"]), tmp_path)
    with pytest.raises(BadInput, match="9 comes after 8"):
        read(WebDataset(shards="part-{9..8}.tar"), tmp_path)


def test_a_folder_without_shards_and_a_wrong_split_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match=r"holds no shards: \.tar"):
        read(WebDataset(), tmp_path)
    with pytest.raises(ValueError, match=r"\['trian'\]"):
        WebDataset(shards={"trian": "*.tar"})


def test_classes_are_named_by_number_or_by_name(tmp_path: Path):
    members = {}
    for number, label in enumerate(["0", "1", "dog", "2", "-1", ""]):
        members |= {f"{number}.txt": "text", f"{number}.cls": label}
    records = read(WebDataset(classes=["cat", "dog"]), write_tar(tmp_path / "a.tar", members))
    assert [r.label for r in records if r.reason is None] == ["cat", "dog", "dog", None]
    assert reasons(records) == {
        "a.tar/3.txt": "class '2' is none of cat, dog",
        "a.tar/4.txt": "class '-1' is none of cat, dog",
    }


def test_json_says_class_and_group_under_keys_that_can_be_set(tmp_path: Path):
    said = {"a.txt": "text", "a.json": json.dumps({"kind": 3, "who": "ann", "label": "no"})}
    path = write_tar(tmp_path / "a.tar", {**said, "b.txt": "text", "b.cls": "c", "b.json": "{}"})
    a, b = read(WebDataset(label="kind", group="who"), path)
    assert (a.label, a.group) == ("3", "ann") and (b.label, b.group) == ("c", None)


def test_what_cannot_be_a_sample_keeps_its_reason(tmp_path: Path):
    members = {
        "folder": None,
        ".hidden.txt": "x",
        "good.txt": "text",
        "README": "not a sample",
        "label_only.cls": "a",
        "link.txt": "-> /etc/passwd",
        "link.cls": "a",
        "/absolute.txt": "text",
        "../../up.txt": "text",
        "two.txt": "text",
        "two.md": "text",
        "bad_json.txt": "text",
        "bad_json.json": "{",
        "list_json.txt": "text",
        "list_json.json": "[1]",
        "list.txt": "text",
        "list.json": '{"label": [1]}',
        "latin.txt": "text",
        "latin.cls": b"K\xe4se",
    }
    records = read(WebDataset(), write_tar(tmp_path / "a.tar", members), frozenset({".txt", ".md"}))
    assert [r.source for r in records if r.reason is None] == ["a.tar/good.txt"]
    found = {source.removeprefix("a.tar/"): reason for source, reason in reasons(records).items()}
    assert len(found) == 10
    assert "but no .md, .txt" in found["README"] and "holds .cls" in found["label_only.cls"]
    assert "link" in found["link.txt"]
    assert "leaves the shard" in found["/absolute.txt"] and "leaves the shard" in found["../../up.txt"]
    assert "'payload'" in found["two.txt"] and "not JSON" in found["bad_json.txt"]
    assert "not a JSON object" in found["list_json.txt"] and "not one class" in found["list.txt"]
    assert found["latin.txt"] == ".cls is not UTF-8"


def test_of_several_files_that_may_be_the_datum_one_is_chosen(tmp_path: Path):
    images = {"a.left.png": png(picture(1)), "a.right.png": png(picture(2)), "b.right.png": png(picture(3))}
    path = write_tar(tmp_path / "a.tar", images)
    a, b = read(WebDataset(payload=".left.png"), path, PNG)
    assert a.raw == images["a.left.png"] and b.reason is not None and "no .left.png" in b.reason


def test_a_member_twice_and_one_that_is_too_large_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tar_shards, "MAX_BYTES", 100)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, size in (("a.txt", 1), ("a.txt", 2), ("b.txt", 101), ("c.txt", 3)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(b"x" * size))
    (tmp_path / "a.tar").write_bytes(file.getvalue())
    records = read(WebDataset(), tmp_path)
    assert [r.reason for r in records] == [
        "the sample holds .txt twice",
        "'b.txt' has 101 bytes, more than 100",
        None,
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_a_shard_that_breaks_off_is_one_reject_and_the_others_are_read(tmp_path: Path, packed: bool):
    whole = write_texts(tmp_path / "whole.tar").read_bytes()
    cut = whole[: 7 * 1024 + 300]  # in the content of some member
    broken = gzip.compress(whole)[:-9] if packed else cut
    (tmp_path / ("a.tar.gz" if packed else "a.tar")).write_bytes(broken)
    records = read(WebDataset(), tmp_path)
    assert sum(r.source.startswith("whole.tar/") and r.reason is None for r in records) == 5
    lost = [r for r in records if r.reason is not None]
    assert [r.source for r in lost][-1] in ("a.tar", "a.tar.gz")
    assert "the shard breaks off" in (lost[-1].reason or "")
    for record in records:
        if record.source.startswith("a.") and record.reason is None:
            assert (record.raw or b"").startswith(b"text") and len(record.raw or b"") == 1200


@pytest.mark.parametrize("end", range(0, 20 * 512, 512))
def test_a_cut_between_members_is_noticed(tmp_path: Path, end: int):
    members = {f"{number}.txt": "t" for number in range(10)}
    whole = write_tar(tmp_path / "a.tar", members).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:end])
    assert "a.tar" in reasons(read(WebDataset(), tmp_path))


def test_shards_that_were_joined_by_cat_are_noticed(tmp_path: Path):
    one = write_texts(tmp_path / "a.tar", 2).read_bytes()
    (tmp_path / "a.tar").write_bytes(one + one)
    assert "behind the mark of its end" in reasons(read(WebDataset(), tmp_path))["a.tar"]


def test_what_is_no_tar_is_one_reject(tmp_path: Path):
    write_texts(tmp_path / "b.tar", 1)
    (tmp_path / "a.tar").write_bytes(b"<html>not found</html>" * 99)
    (tmp_path / "c.tgz").write_bytes(b"no gzip")
    records = read(WebDataset(), tmp_path)
    assert len(records) == 3 and set(reasons(records)) == {"a.tar", "c.tgz"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_stops_the_reading_or_invents_a_sample(tmp_path: Path, data: st.DataObject):
    members = {f"{n}.{e}": c for n in range(4) for e, c in (("txt", f"text {n}"), ("cls", "a"))}
    whole = bytearray(write_tar(tmp_path / "a.tar", members).read_bytes())
    where = data.draw(st.lists(st.integers(0, 16 * 512 - 1), min_size=1, max_size=8))
    for place in where:
        whole[place] = data.draw(st.sampled_from([0, 45, 48, 55, 128, 255]))
    (tmp_path / "a.tar").write_bytes(whole)
    records = read(WebDataset(), tmp_path)
    assert all((r.raw is None) == (r.reason is not None) for r in records)
    assert len(records) <= 9 + len(where)


def test_a_member_that_claims_a_negative_size_does_not_lead_in_circles(tmp_path: Path):
    whole = bytearray(write_texts(tmp_path / "a.tar", 3).read_bytes())
    header = whole[:512]
    header[124:136] = b"\xff" * 8 + (-2048 & 0xFFFFFFFF).to_bytes(4, "big")
    header[148:156] = b"        "
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(whole[: 3 * 1024] + header + whole[4 * 1024 :])
    assert "a.tar" in reasons(read(WebDataset(), tmp_path))
