import gc
import gzip
import json
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import png, tone, wav
from rawdata import PNG, TXT, WAV, picture, read, reasons, write_csv

from winnow.data.sources.huggingface import HuggingFace
from winnow.data.sources.records import Record
from winnow.data.stage import BadInput

datasets = pytest.importorskip("datasets", reason="the extra 'huggingface' is not installed")
both = pytest.mark.parametrize("streaming", [False, True], ids=["copied", "streamed"])
KINDS = datasets.ClassLabel(names=["cat", "dog"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield tmp_path / "cache"
    # The library leaves CSV files open for the collector to close.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def made(columns: dict[str, list[Any]], **features: Any) -> Any:
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features) if features else None)


def texts(*labels: int | None) -> Any:
    columns = {"text": [f"text {number}" for number in range(len(labels))], "label": list(labels)}
    return made(columns, text=datasets.Value("string"), label=KINDS)


def shown(records: list[Record]) -> list[tuple[str, bytes | None, str | None, str | None]]:
    return [(r.source, r.raw, r.label, r.split) for r in records]


@both
def test_a_saved_dataset_gives_texts_names_of_classes_and_splits(tmp_path: Path, streaming: bool):
    parts = {"train": texts(0, 1, -1, None), "validation": texts(1), "test": texts(0)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "raw" / "pets")
    assert shown(read(HuggingFace("pets", streaming=streaming), tmp_path / "raw")) == [
        ("train#0", b"text 0", "cat", "train"),
        ("train#1", b"text 1", "dog", "train"),
        ("train#2", b"text 2", None, "train"),
        ("train#3", b"text 3", None, "train"),
        ("validation#0", b"text 0", "dog", "validation"),
        ("test#0", b"text 0", "cat", "test"),
    ]


@both
def test_a_dataset_in_one_piece_has_no_splits(tmp_path: Path, streaming: bool):
    texts(0, 1).save_to_disk(tmp_path / "raw")
    records = read(HuggingFace(streaming=streaming), tmp_path / "raw")
    assert shown(records) == [("row#0", b"text 0", "cat", None), ("row#1", b"text 1", "dog", None)]
    with pytest.raises(BadInput, match="in one piece"):
        read(HuggingFace(streaming=streaming, splits={"train": "train"}), tmp_path / "raw")


@both
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet"])
def test_data_files_in_a_folder_or_alone_are_a_dataset(tmp_path: Path, kind: str, streaming: bool):
    rows = [{"id": i, "text": f"text {i}", "label": i % 2, "who": f"w{i // 2}"} for i in range(4)]
    root = tmp_path / "raw"
    for split in ("train", "test"):
        path = root / f"{split}.{kind}"
        path.parent.mkdir(exist_ok=True)
        if kind == "parquet":
            pd.DataFrame(rows).to_parquet(path)
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            plain = write_csv(tmp_path / "plain.csv", tuple(rows[0]), *(tuple(r.values()) for r in rows))
            content = plain.read_bytes()
            path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    source = HuggingFace(group="who", column="text", classes=["cat", "dog"], streaming=streaming)
    records = read(source, root)
    assert [r.split for r in records] == ["train"] * 4 + ["test"] * 4
    assert [(r.source, r.raw, r.label, r.group) for r in records[4:6]] == [
        ("test#0", b"text 0", "cat", "w0"),
        ("test#1", b"text 1", "dog", "w0"),
    ]
    if kind != "csv.gz":
        assert len(read(source, root / f"train.{kind}")) == 4


@both
def test_a_column_may_be_the_target(tmp_path: Path, streaming: bool):
    columns = {"text": ["a", "b", "c"], "score": [1.5, 2.0, None]}
    made(columns).save_to_disk(tmp_path / "raw")
    records = read(HuggingFace(target="score", streaming=streaming), tmp_path / "raw")
    assert [r.target for r in records] == ["1.5", "2", None]
    with pytest.raises(BadInput, match="no column 'points'"):
        read(HuggingFace(target="points", streaming=streaming), tmp_path / "raw")


@both
def test_images_come_undecoded_and_a_broken_one_is_left_to_decoding(tmp_path: Path, streaming: bool):
    stored = [png(picture(1)), png(picture(2))[:90], b""]
    columns = {"pic": [{"bytes": content, "path": None} for content in stored], "label": [0, 1, 1]}
    made(columns, pic=datasets.Image(), label=KINDS).save_to_disk(tmp_path / "raw")
    assert [r.raw for r in read(HuggingFace(streaming=streaming), tmp_path / "raw", PNG)] == stored


@both
def test_recordings_come_undecoded(tmp_path: Path, streaming: bool):
    stored = [wav(tone(200, 0.3)), wav(tone(300, 0.3))]
    columns = {"audio": [{"bytes": content, "path": "a.wav"} for content in stored], "word": ["a", "b"]}
    as_stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    data = made(columns, audio=as_stored, word=datasets.Value("string"))
    data = data.cast_column("audio", datasets.Audio(sampling_rate=16000))
    (tmp_path / "raw").mkdir()
    data.to_parquet(tmp_path / "raw" / "train.parquet")
    records = read(HuggingFace(label="word", streaming=streaming), tmp_path / "raw", WAV)
    assert [r.raw for r in records] == stored and [r.label for r in records] == ["a", "b"]


@both
def test_a_folder_of_images_is_a_dataset(tmp_path: Path, streaming: bool):
    for number, name in enumerate(("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png")):
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(number)))
    records = read(HuggingFace(streaming=streaming), tmp_path / "raw", PNG)
    assert [(r.label, r.split) for r in records] == [
        ("cat", "train"),
        ("dog", "train"),
        ("cat", "test"),
        ("dog", "test"),
    ]
    assert [r.raw for r in records] == [png(picture(number)) for number in range(4)]


@both
def test_an_archive_of_images_is_a_dataset(tmp_path: Path, streaming: bool):
    (tmp_path / "raw").mkdir()
    with zipfile.ZipFile(tmp_path / "raw" / "train.zip", "w") as archive:
        for number, name in enumerate(("cat/1.png", "dog/1.png")):
            archive.writestr(name, png(picture(number)))
    source = HuggingFace(streaming=streaming, arguments={"drop_labels": True})
    assert [r.raw for r in read(source, tmp_path / "raw", PNG)] == [png(picture(0)), png(picture(1))]


def test_files_outside_of_the_copy_are_not_read(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(png(picture(1)))
    inside = tmp_path / "raw" / "1.png"
    inside.parent.mkdir()
    inside.write_bytes(png(picture(2)))
    named = [str(inside), str(tmp_path / "secret.png"), "../secret.png", "/etc/passwd", "a\0b", None]
    named += [f"zip://a.png::{tmp_path}/x.zip", "https://example.org/1.png", "hf://datasets/x/y.png"]
    rows = [json.dumps({"image": {"bytes": None, "path": name}, "label": "x"}) for name in named]
    (tmp_path / "raw" / "train.jsonl").write_text("\n".join(rows))
    records = read(HuggingFace(column="image"), tmp_path / "raw" / "train.jsonl", PNG)
    assert [r.raw is not None for r in records] == [True] + [False] * 8
    found = list(reasons(records).values())
    assert sum("leaves the folder" in reason for reason in found) == 6
    assert "no name of a file" in found[3] and found[4] == "the cell 'image' is empty"


def test_a_cell_that_is_no_datum_and_a_class_that_is_none_are_rejects(tmp_path: Path):
    rows = [
        {"text": "good", "label": 1},
        {"text": None, "label": 0},
        {"text": "good", "label": 2},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    records = read(HuggingFace(classes=["cat", "dog"]), tmp_path)
    assert [r.raw for r in records] == [b"good", b"", None]  # an empty text is left to decoding
    assert reasons(records) == {"train#2": "class 2 is none of the 2 classes"}
    tokens = tmp_path / "tokens" / "train.parquet"
    tokens.parent.mkdir()
    pd.DataFrame({"text": [["a", "b"]], "label": [[1, 2]]}).to_parquet(tokens)
    assert set(reasons(read(HuggingFace(column="text", label=None), tokens.parent)).values()) == {
        "'text' holds a list, not a text, image or recording"
    }
    assert "the label is a list" in next(
        iter(reasons(read(HuggingFace(column="text"), tokens.parent)).values())
    )


def test_columns_are_found_or_asked_for(tmp_path: Path):
    columns = {"q": ["a", "b"], "a": ["c", "d"], "coarse": [0, 1], "fine": [1, 1]}
    strings = {"q": datasets.Value("string"), "a": datasets.Value("string")}
    made(columns, **strings, coarse=KINDS, fine=KINDS).save_to_disk(tmp_path)
    with pytest.raises(BadInput, match=r"'label' which of \['coarse', 'fine'\]"):
        read(HuggingFace(), tmp_path)
    with pytest.raises(BadInput, match=r"'column' which of \['q', 'a', 'coarse', 'fine'\]"):
        read(HuggingFace(label="fine"), tmp_path)
    with pytest.raises(BadInput, match=r"no column 'text', but \['q'"):
        read(HuggingFace(column="text", label="fine"), tmp_path)
    (first, _) = read(HuggingFace(column=["q", "a"], label="coarse"), tmp_path)
    assert (first.raw, first.label) == (b"a\nc", "cat")
    assert read(HuggingFace(column="q", label=None), tmp_path)[0].label is None
    assert read(HuggingFace(label="fine", group="a"), tmp_path)[0][1:6] == (b"a", None, "dog", None, "c")


def test_splits_of_other_names_have_to_be_told_apart(tmp_path: Path):
    parts = {"train": texts(0), "unsupervised": texts(-1), "validation_matched": texts(1)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    with pytest.raises(BadInput, match=r"'unsupervised'.*key 'splits'"):
        read(HuggingFace(), tmp_path)
    splits: dict[str, Any] = {"train": ["train", "unsupervised"], "test": "validation_matched"}
    assert [(r.source, r.split) for r in read(HuggingFace(splits=splits), tmp_path)] == [
        ("train#0", "train"),
        ("unsupervised#0", "train"),
        ("validation_matched#0", "test"),
    ]
    with pytest.raises(BadInput, match="no split 'dev', but"):
        read(HuggingFace(splits={"train": "dev"}), tmp_path)


@both
def test_a_file_that_breaks_off_is_named(tmp_path: Path, streaming: bool):
    (tmp_path / "train.csv").write_text("text,label\n" + "a,1\n" * 50 + 'b,"2\n')
    pd.DataFrame({"text": ["a"] * 9, "label": [1] * 9}).to_parquet(tmp_path / "test.parquet")
    whole = (tmp_path / "test.parquet").read_bytes()
    (tmp_path / "test.parquet").write_bytes(whole[: len(whole) // 2])
    for name in ("test.parquet", "train.csv"):
        with pytest.raises(BadInput, match=rf"{name}.*(?i:error|invalid)|{name}"):
            read(HuggingFace(streaming=streaming), tmp_path / name)


def test_nothing_comes_from_the_hub_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("asked for the Hub")

    monkeypatch.setattr("datasets.load_dataset", no_network)
    with pytest.raises(BadInput, match=r"holds no folder 'ag_news'.*save_to_disk.*'download: true'"):
        read(HuggingFace("ag_news"), tmp_path)
    with pytest.raises(BadInput, match="asked for the Hub"):
        read(HuggingFace("ag_news", download=True), tmp_path)


def test_an_empty_copy_is_refused(tmp_path: Path):
    (tmp_path / "train.csv").write_text("text,label\n")
    with pytest.raises(BadInput, match="has no rows"):
        read(HuggingFace(column="text", label=None, streaming=True), tmp_path)
    with pytest.raises(BadInput, match="datasets cannot read"):  # its own word for the same
        read(HuggingFace(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arguments": {"trust_remote_code": True}}, "may not hold trust_remote_code"),
        ({"splits": {"trian": "train"}}, "trian"),
        ({"download": True}, "download needs the key 'dataset'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(changes: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        HuggingFace(**changes)


def test_without_the_library_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"pip install 'winnow\[huggingface\]'"):
        read(HuggingFace(), tmp_path, TXT)
