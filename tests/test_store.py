from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from winnow.data import shards, store

COUNT = shards.ROWS_PER_SHARD + 5


def write_samples(ingest: Path, count: int = COUNT) -> list[tuple[str, bytes]]:
    rows = [(f"id{i:05}", bytes([i % 256]) * (i % 7)) for i in range(count)]
    with store.sample_writer(ingest) as samples:
        for row in rows:
            samples.add(*row)
    return rows


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(NAMES, st.binary(), NAMES, st.binary())
def test_an_id_names_source_and_content(s1: str, c1: bytes, s2: str, c2: bytes):
    same = store.sample_id(s1, c1) == store.sample_id(s2, c2)
    assert same == ((s1, c1) == (s2, c2))


def test_ids_never_change():
    assert store.sample_id("cats/1.png", b"abc") == "4f2decd123a508f9d727"


def test_samples_come_back_in_order_over_shards(tmp_path: Path):
    rows = write_samples(tmp_path)
    assert len(list((tmp_path / "samples").iterdir())) == 2
    assert list(store.payloads(tmp_path)) == rows


def test_wanted_samples_come_in_the_order_of_ingestion(tmp_path: Path):
    rows = write_samples(tmp_path)
    assert list(store.payloads(tmp_path, [rows[-1][0], rows[3][0]])) == [rows[3], rows[-1]]


def test_a_sample_that_is_not_there_is_named(tmp_path: Path):
    write_samples(tmp_path, 3)
    with pytest.raises(KeyError, match="nonsuch"):
        list(store.payloads(tmp_path, ["id00001", "nonsuch"]))


def test_the_same_samples_are_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        write_samples(tmp_path / name, 100)
    a, b = (tmp_path / name / "samples/00000.parquet" for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("density", [1.0, 0.01], ids=["dense", "sparse"])
def test_vectors_come_back_in_the_order_asked_for(tmp_path: Path, density: float):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(1200, 50)) * (random.random((1200, 50)) < density)
    matrix = matrix.astype(np.float32)
    with store.vector_writer(tmp_path / "v") as vectors:
        for i, row in enumerate(matrix):
            vectors.add(f"id{i}", row)
    found = store.read_vectors(tmp_path / "v", ["id1100", "id3", "id700"])
    assert scipy.sparse.issparse(found) == (density < 0.1)
    dense = found.toarray() if scipy.sparse.issparse(found) else found
    assert np.array_equal(dense, matrix[[1100, 3, 700]])
    everything = store.read_vectors(tmp_path / "v")
    assert everything.shape == matrix.shape
    with pytest.raises(KeyError, match="nonsuch"):
        store.read_vectors(tmp_path / "v", ["nonsuch"])


def test_fingerprints_come_back_in_the_order_asked_for(tmp_path: Path):
    random = np.random.default_rng(0)
    identity = [random.bytes(15) + b"\0" for _ in range(COUNT)]
    signature = random.integers(0, 2**16, (COUNT, 4), dtype=np.uint16)
    with store.fingerprint_writer(tmp_path) as fingerprints:
        for i in range(COUNT):
            fingerprints.add(f"id{i}", identity[i], signature[i])
    assert store.read_fingerprints(tmp_path).identity.tolist() == np.array(identity, "S16").tolist()
    found = store.read_fingerprints(tmp_path, ["id4099", "id3"])
    assert found.identity.dtype == "S16" and found.signature.dtype == np.uint16
    assert found.identity.tolist() == np.array([identity[4099], identity[3]], "S16").tolist()
    assert np.array_equal(found.signature, signature[[4099, 3]])
    with pytest.raises(KeyError, match="nonsuch"):
        store.read_fingerprints(tmp_path, ["nonsuch"])


def test_signatures_may_be_empty(tmp_path: Path):
    with store.fingerprint_writer(tmp_path) as fingerprints:
        fingerprints.add("a", b"0" * 16, np.zeros(0, np.uint16))
    assert store.read_fingerprints(tmp_path).signature.shape == (1, 0)


def test_some_columns_of_a_table_are_read_alone(tmp_path: Path):
    store.write_table(tmp_path / "t.parquet", pd.DataFrame({"id": ["a"], "label": [None], "seconds": [1.0]}))
    assert store.read_table(tmp_path / "t.parquet", ["label"]).to_dict("list") == {"label": [None]}


def test_an_empty_folder_holds_no_vectors(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no Parquet shard"):
        store.read_vectors(tmp_path)


def test_missing_strings_of_a_table_come_back_as_none(tmp_path: Path):
    table = pd.DataFrame(
        {"id": ["a", "b"], "label": ["x", None], "group": [None, None], "seconds": [1.5, 2.0]}
    )
    store.write_table(tmp_path / "t.parquet", table)
    back = store.read_table(tmp_path / "t.parquet")
    assert back["label"].tolist() == ["x", None] and back["group"].tolist() == [None, None]
    assert back["seconds"].tolist() == [1.5, 2.0]


MANIFEST = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "label": ["x", "y", None],
        "split": ["train", "train", "test"],
        "group": [None, None, None],
        "source": ["1", "2", "3"],
    }
)


def decide(ingest: Path, **columns: list[Any]) -> Path:
    folder = ingest / "curate"
    folder.mkdir()
    store.write_table(ingest / "manifest.parquet", MANIFEST)
    store.write_table(folder / "decisions.parquet", pd.DataFrame(columns))
    return folder


def test_decisions_relabel_and_drop(tmp_path: Path):
    labels = decide(tmp_path, id=["a", "b", "c"], action=["relabel", "drop", "keep"], label=["z", "y", None])
    as_delivered = store.read_labels(tmp_path, tmp_path)
    assert as_delivered["label"].tolist() == ["x", "y", None]
    decided = store.read_labels(labels, tmp_path)
    assert list(zip(decided["id"], decided["label"], strict=True)) == [("a", "z"), ("c", None)]


def test_decisions_about_other_samples_are_refused(tmp_path: Path):
    labels = decide(tmp_path, id=["a"], action=["keep"], label=["x"])
    with pytest.raises(ValueError, match="other samples"):
        store.read_labels(labels, tmp_path)


def test_json_is_sorted_and_finite(tmp_path: Path):
    path = tmp_path / "m.json"
    store.write_json(path, {"b": 1, "a": {"é": store.finite(float("nan"))}})
    assert path.read_text() == '{\n  "a": {\n    "é": null\n  },\n  "b": 1\n}\n'
    assert store.read_json(path) == {"a": {"é": None}, "b": 1}
    with pytest.raises(ValueError, match="JSON"):
        store.write_json(path, {"a": float("inf")})
