from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
from conftest import Kind
from torch import Generator, Tensor, nn

from winnow.data import shards, store
from winnow.data.modality import Decoded, Modality
from winnow.data.sources.decoding import decode, descriptors_of, record_tables
from winnow.data.sources.records import Record
from winnow.data.text import Text

TEXT = Text(length=8, vocabulary=64)


def record(number: int, raw: bytes | None = b"some words", reason: str | None = None) -> Record:
    return Record(f"s{number}", raw, reason, "a", None, f"g{number}", {"bob": "b"})


def test_tables_hold_all_records_in_order_and_are_small():
    tables = list(record_tables([record(i, b"x" * 3_000_000) for i in range(7)]))
    assert [len(table) for table in tables] == [3, 3, 1]
    tables = list(record_tables(record(i) for i in range(600)))
    assert [len(table) for table in tables] == [256, 256, 88]
    sources = [source for table in tables for source in table["source"].to_pylist()]
    assert sources == [f"s{i}" for i in range(600)]


def test_a_record_becomes_what_its_modality_makes_of_it(kind: Kind, modality: Modality, raw: Path):
    records = list(kind.source.records(raw, modality.suffixes))[:5]
    found = decode(modality, next(record_tables(records)))
    for one, row in zip(records, found.to_pylist(), strict=True):
        assert one.raw is not None
        payload, measures = modality.decode(one.raw)
        assert row["id"] == store.sample_id(one.source, one.raw) and row["payload"] == payload
        assert dict(row["measures"]) == pytest.approx(measures, nan_ok=True) and row["reason"] is None
        assert row["identity"] == modality.identity(payload)
        assert row["signature"] == modality.signature(payload).tolist()
        assert (row["source"], row["label"], row["group"]) == (one.source, one.label, one.group)
    described = shards.matrix(descriptors_of(found)).toarray()
    assert np.array_equal(described, [modality.descriptor(p) for p in found["payload"].to_pylist()])


def test_what_is_rejected_has_a_reason_and_nothing_else():
    records = [record(0), record(1, b" "), record(2, None, "it is gone")]
    rows = decode(TEXT, next(record_tables(records))).to_pylist()
    assert [row["reason"] for row in rows] == [None, "the text is empty", "it is gone"]
    assert [row["id"] is None and row["payload"] is None for row in rows] == [False, True, True]
    assert [row["annotations"] for row in rows] == [[("bob", "b")]] * 3


def test_all_results_have_the_same_columns():
    schemas = [decode(TEXT, next(record_tables([r]))).schema for r in (record(0), record(1, None, "gone"))]
    assert schemas[0].equals(schemas[1])


class Halves(Modality):
    """Numbers, of which the even ones have a descriptor of mostly zeros."""

    def decode(self, raw: bytes) -> Decoded:
        return Decoded(raw, {})

    def descriptor(self, payload: bytes) -> np.ndarray:
        return np.ones(40, np.float32) if payload[0] % 2 else np.eye(40, dtype=np.float32)[payload[0]]

    def identity(self, payload: bytes) -> bytes:
        return payload * 16

    def signature(self, payload: bytes) -> np.ndarray:
        return np.zeros(0, np.uint16)

    def load(self, payload: bytes) -> Tensor:
        raise NotImplementedError

    def transform(self, x: Tensor, generator: Generator) -> Tensor:
        raise NotImplementedError

    def draw(self, generator: Generator) -> Tensor:
        raise NotImplementedError

    def frontend(self, dim: int) -> nn.Module:
        raise NotImplementedError

    def cuts(self, measures: Mapping[str, float]) -> bool:
        raise NotImplementedError

    def preview(self, payload: bytes) -> str:
        raise NotImplementedError


@pytest.mark.parametrize("numbers", [[0, 2, 4], [1, 3], [0, 1, 2]], ids=["sparse", "dense", "both"])
def test_descriptors_may_be_sparse_or_dense(numbers: list[int]):
    modality = Halves()
    found = decode(modality, next(record_tables(record(i, bytes([i])) for i in numbers)))
    table: pa.Table = descriptors_of(found)
    expected = [modality.descriptor(bytes([i])) for i in numbers]
    assert np.array_equal(shards.matrix(table).toarray(), expected)
    assert scipy.sparse.issparse(shards.matrix(table))
