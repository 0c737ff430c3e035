"""Samples and tables on disk: Parquet shards, a manifest, decisions; their only reader and writer.

Everything written here is a function of its content alone (no time stamps, sorted keys, fixed
compression), so that a stage that is run twice leaves the same bytes.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse

SPLITS = ("train", "validation", "test")
ROWS_PER_SHARD = 4096
_SPARSE_BELOW = 0.1  # share of non-zero entries under which a sparse matrix is the smaller one


def sample_id(source: str, raw: bytes) -> str:
    """Name a sample by a hash of where it came from and what it holds; it never changes."""
    return hashlib.blake2b(source.encode() + b"\0" + raw, digest_size=10).hexdigest()


class ShardWriter:
    """Writes rows to `directory/00000.parquet`, `00001.parquet`, …; memory holds one shard."""

    def __init__(self, directory: Path, schema: pa.Schema) -> None:
        self._directory, self._schema = directory, schema
        self._rows: list[tuple[Any, ...]] = []
        self._shards = 0
        directory.mkdir(parents=True)

    def add(self, *row: Any) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_SHARD:
            self._flush()

    def _flush(self) -> None:
        columns = [
            pa.array(column, field.type)
            for column, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        table = pa.Table.from_arrays(columns, schema=self._schema)
        path = self._directory / f"{self._shards:05}.parquet"
        pq.write_table(table, path, compression="zstd", row_group_size=512)
        self._shards += 1
        self._rows = []

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._rows:
            self._flush()


def sample_writer(ingest: Path) -> ShardWriter:
    """Open the sample shards of an ingest folder for writing rows of (id, payload)."""
    return ShardWriter(ingest / "samples", pa.schema([("id", pa.string()), ("payload", pa.binary())]))


def vector_writer(directory: Path) -> ShardWriter:
    """Open a folder of vectors (descriptors or embeddings) for writing rows of (id, vector)."""
    return ShardWriter(directory, pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))]))


def _batches(directory: Path) -> Iterator[pa.RecordBatch]:
    shards = sorted(directory.glob("*.parquet"))
    if not shards:
        raise FileNotFoundError(f"{directory} holds no Parquet shard")
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            yield from file.iter_batches(512)


def payloads(ingest: Path, ids: Collection[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Stream (id, payload) in the order of ingestion; memory holds one batch of rows.

    Args:
        ingest: folder that `ingest` wrote.
        ids: the samples wanted; None means all.

    Raises:
        KeyError: if a wanted id is not in the store.
    """
    wanted = None if ids is None else set(ids)
    for batch in _batches(ingest / "samples"):
        for id_, payload in zip(batch["id"].to_pylist(), batch["payload"], strict=True):
            if wanted is None:
                yield id_, payload.as_py()
            elif id_ in wanted:
                wanted.remove(id_)
                yield id_, payload.as_py()
    if wanted:
        raise KeyError(f"{len(wanted)} ids are not in {ingest / 'samples'}: {sorted(wanted)[:3]} …")


def read_vectors(directory: Path, ids: Collection[str] | None = None) -> np.ndarray | scipy.sparse.csr_array:
    """Read vectors in the order of `ids` (None: as stored); sparse where most entries are 0.

    Raises:
        KeyError: if a wanted id has no vector.
    """
    names: list[str] = []
    parts: list[np.ndarray | scipy.sparse.csr_array] = []
    for batch in _batches(directory):
        names += batch["id"].to_pylist()
        dense = np.stack(batch["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
        sparse = np.count_nonzero(dense) < _SPARSE_BELOW * dense.size
        parts.append(scipy.sparse.csr_array(dense) if sparse else dense)
    if any(isinstance(part, np.ndarray) for part in parts):
        parts = [p if isinstance(p, np.ndarray) else p.toarray() for p in parts]
        matrix = np.concatenate(parts)
    else:
        matrix = scipy.sparse.vstack(parts, format="csr")
    if ids is None:
        return matrix
    row = {name: i for i, name in enumerate(names)}
    missing = [id_ for id_ in ids if id_ not in row]
    if missing:
        raise KeyError(f"{len(missing)} ids have no vector in {directory}: {missing[:3]} …")
    return matrix[[row[id_] for id_ in ids]]


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table of one row per sample."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(arrow, path, compression="zstd")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `write_table` wrote; missing strings are None."""
    table = pq.read_table(path).to_pandas()
    for name in table.columns[table.dtypes.map(lambda t: t in ("object", "str"))]:
        table[name] = table[name].astype(object).where(table[name].notna(), None)
    return table


def read_labels(labels: Path, ingest: Path) -> pd.DataFrame:
    """Read the samples as one round sees them, in the order of the manifest.

    Args:
        labels: folder of some round's decisions, or of `ingest` for the data as delivered.
        ingest: folder that `ingest` wrote.

    Returns:
        The manifest's `id, label, split, group`, with decided labels, less the dropped samples.

    Raises:
        ValueError: if the decisions were made about other samples than the manifest's.
    """
    manifest = read_table(ingest / "manifest.parquet")[["id", "label", "split", "group"]]
    if (labels / "manifest.parquet").exists():
        return manifest
    decided = read_table(labels / "decisions.parquet")
    if list(decided["id"]) != list(manifest["id"]):
        raise ValueError(f"{labels} decides about other samples than {ingest} holds")
    manifest["label"] = decided["label"]
    return manifest[decided["action"] != "drop"].reset_index(drop=True)


def read_classes(ingest: Path) -> list[str]:
    """Read the classes of a dataset, in the order that label indices refer to."""
    labels = read_table(ingest / "manifest.parquet")["label"]
    return sorted(labels.dropna().unique())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys.

    Raises:
        ValueError: if a number is not finite: `dvc metrics` could not read it.
    """
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def finite(value: float) -> float | None:
    """Give a JSON number, or None for what JSON has no number for."""
    return float(value) if math.isfinite(value) else None
