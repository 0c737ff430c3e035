"""Records → what ingest keeps of them: payload, measures, descriptor, fingerprint, or why not.

Each datum is decoded once, and everything that it takes the payload to know is asked of it then. Records
and results are Arrow tables of a fixed layout, so that they can be worked on in other processes.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from winnow.data import store
from winnow.data.modality import Modality, Reject
from winnow.data.shards import is_sparse, vector_table
from winnow.data.sources.records import Record

KEPT = ("label", "split", "group", "source")  # of a record

_ROWS, _BYTES = 256, 8_000_000  # after either of which a table of records is full
_NAMES = pa.map_(pa.string(), pa.string())
_RECORDS = pa.schema(
    [
        ("source", pa.string()),
        ("raw", pa.large_binary()),
        ("reason", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("annotations", _NAMES),
        ("target", pa.string()),
    ]
)
_FOUND = pa.schema(
    [
        ("id", pa.string()),
        ("payload", pa.binary()),
        ("measures", pa.map_(pa.string(), pa.float64())),
        # A descriptor of mostly zeros is the other entries and their places; of others, places are missing.
        ("width", pa.int32()),
        ("index", pa.list_(pa.int32())),
        ("value", pa.list_(pa.float32())),
        ("identity", pa.binary(16)),
        ("signature", pa.list_(pa.uint16())),
    ]
)


def record_tables(records: Iterable[Record]) -> Iterator[pa.Table]:
    """Gather records into tables that are small enough to be sent about."""
    rows: list[Record] = []
    size = 0
    for record in records:
        rows.append(record)
        size += len(record.raw or b"")
        if len(rows) == _ROWS or size > _BYTES:
            yield _table(_RECORDS, [_columns(row) for row in rows])
            rows, size = [], 0
    if rows:
        yield _table(_RECORDS, [_columns(row) for row in rows])


def _columns(record: Record) -> dict[str, Any]:
    return {**record._asdict(), "annotations": list(record.annotations.items())}


def _table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row.get(name) for row in rows] for name in schema.names}, schema=schema)


def decode(modality: Modality, records: pa.Table) -> pa.Table:
    """Decode and describe the records of a table.

    Args:
        modality: what they are.
        records: of `record_tables`.

    Returns:
        Without their raw bytes, the same rows and columns, a `reason` for each that is rejected, and
        what was found of the others; it is missing where there is a reason.
    """
    rows = []
    reasons = records["reason"].to_pylist()
    for i, (source, raw) in enumerate(zip(records["source"], records["raw"], strict=True)):
        row: dict[str, Any] = {}
        if raw.is_valid:
            try:
                row = _found(modality, source.as_py(), raw.as_py())
            except Reject as reject:
                reasons[i] = str(reject)
        rows.append(row)
    found = _table(_FOUND, rows)
    kept = records.drop_columns(["raw", "reason"]).append_column("reason", pa.array(reasons, pa.string()))
    for name in _FOUND.names:
        kept = kept.append_column(name, found[name])
    return kept


def _found(modality: Modality, source: str, raw: bytes) -> dict[str, Any]:
    payload, measures = modality.decode(raw)
    descriptor = np.asarray(modality.descriptor(payload), dtype=np.float32)
    sparse = is_sparse(descriptor[None])
    index = np.flatnonzero(descriptor) if sparse else None
    return {
        "id": store.sample_id(source, raw),
        "payload": payload,
        "measures": list(measures.items()),
        "width": len(descriptor),
        "index": index,
        "value": descriptor if index is None else descriptor[index],
        "identity": modality.identity(payload),
        "signature": modality.signature(payload),
    }


def descriptors_of(found: pa.Table) -> pa.Table:
    """Lay the descriptors of decoded records out as the store keeps vectors."""
    dense = found["index"].null_count
    if dense == len(found):
        return found.select(["id", "value"]).rename_columns(["id", "vector"])
    width = found["width"][0].as_py()
    if not dense:
        return found.select(["id", "index", "value"]).replace_schema_metadata({"width": str(width)})
    vectors = np.zeros((len(found), width), np.float32)
    for row, index, value in zip(vectors, found["index"], found["value"], strict=True):
        row[index.values.to_numpy() if index.is_valid else slice(None)] = value.values.to_numpy()
    return vector_table(found["id"].to_pylist(), vectors)
