"""Parquet shards: rows that are written, and read again, a few thousand at a time."""

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse

ROWS_PER_SHARD = 4096
_SPARSE_BELOW = 0.1  # share of entries other than 0, under which sparse vectors are the smaller ones


class ShardWriter:
    """Writes rows to `directory/00000.parquet`, `00001.parquet`, …; memory holds one shard."""

    def __init__(self, directory: Path, schema: pa.Schema) -> None:
        self._directory, self._schema = directory, schema
        self._rows: list[tuple[Any, ...]] = []
        self._tables: list[pa.Table] = []
        self._waiting = self._shards = 0
        directory.mkdir(parents=True)

    def add(self, *row: Any) -> None:
        self._rows.append(row)
        self._waiting += 1
        if self._waiting == ROWS_PER_SHARD:
            self._flush(ROWS_PER_SHARD)

    def extend(self, table: pa.Table) -> None:
        """Add the rows of a table of the same columns."""
        self._gather()
        self._tables.append(table)
        self._waiting += len(table)
        while self._waiting >= ROWS_PER_SHARD:
            self._flush(ROWS_PER_SHARD)

    def _gather(self) -> None:
        if self._rows:
            self._tables.append(self._table(self._rows))
            self._rows = []

    def _table(self, rows: list[tuple[Any, ...]]) -> pa.Table:
        columns = zip(zip(*rows, strict=True), self._schema, strict=True)
        arrays = [pa.array(column, field.type) for column, field in columns]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _concat(self, tables: list[pa.Table]) -> pa.Table:
        return pa.concat_tables(tables)

    def _flush(self, rows: int) -> None:
        self._gather()
        whole = self._concat(self._tables)
        rest = whole.slice(rows)
        self._tables, self._waiting = ([rest] if len(rest) else []), len(rest)
        path = self._directory / f"{self._shards:05}.parquet"
        pq.write_table(whole.slice(0, rows).combine_chunks(), path, compression="zstd", row_group_size=512)
        self._shards += 1

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._waiting:
            self._flush(self._waiting)


class VectorWriter(ShardWriter):
    """Writes vectors; of a shard that is mostly zeros, the other entries alone."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32()))]))

    def _table(self, rows: list[tuple[Any, ...]]) -> pa.Table:
        ids, vectors = zip(*rows, strict=True)
        return vector_table(ids, np.stack(vectors))

    def _concat(self, tables: list[pa.Table]) -> pa.Table:
        if all(table.schema.equals(tables[0].schema) for table in tables):
            return pa.concat_tables(tables)
        ids = [id_ for table in tables for id_ in table["id"].to_pylist()]
        return vector_table(ids, scipy.sparse.vstack([matrix(table) for table in tables], format="csr"))


def vector_table(ids: Sequence[str], vectors: np.ndarray | scipy.sparse.csr_array) -> pa.Table:
    """Lay vectors out as `vector_writer` stores them: (id, vector), or (id, index, value) if sparse."""
    if not is_sparse(vectors):
        dense = vectors if isinstance(vectors, np.ndarray) else vectors.toarray()
        ends = np.arange(len(dense) + 1, dtype=np.int32) * dense.shape[1]
        values = pa.array(dense.astype(np.float32, copy=False).ravel())
        lists = pa.ListArray.from_arrays(ends, values)
        return pa.table({"id": pa.array(ids, pa.string()), "vector": lists})
    sparse = scipy.sparse.csr_array(vectors)
    ends = pa.array(sparse.indptr.astype(np.int32))
    index = pa.ListArray.from_arrays(ends, pa.array(sparse.indices.astype(np.int32)))
    value = pa.ListArray.from_arrays(ends, pa.array(sparse.data.astype(np.float32)))
    table = pa.table({"id": pa.array(ids, pa.string()), "index": index, "value": value})
    return table.replace_schema_metadata({"width": str(sparse.shape[1])})


def is_sparse(vectors: np.ndarray | scipy.sparse.csr_array) -> bool:
    """Say whether most entries are 0."""
    filled = np.count_nonzero(vectors) if isinstance(vectors, np.ndarray) else vectors.nnz
    return bool(filled < _SPARSE_BELOW * vectors.shape[0] * vectors.shape[1])


def matrix(table: pa.Table | pa.RecordBatch) -> scipy.sparse.csr_array:
    """Read what `vector_table` laid out."""
    if "vector" in table.column_names:
        return scipy.sparse.csr_array(rectangle(table["vector"]))
    lengths = pc.list_value_length(table["index"]).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    index, value = (
        pc.list_flatten(table[name]).to_numpy(zero_copy_only=False) for name in ("index", "value")
    )
    shape = (len(table), int(table.schema.metadata[b"width"]))
    return scipy.sparse.csr_array((value, index, ends), shape=shape)


def rectangle(lists: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Give lists of one length as rows."""
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(len(lists), -1)


def keep(directory: Path, ids: Collection[str]) -> None:
    """Rewrite shards with the rows of some ids alone."""
    everything = directory.with_name(f".{directory.name}")
    directory.rename(everything)
    kept = pa.array(ids, pa.string())
    shards = paths(everything)
    first = _as_written(pq.read_schema(shards[0]))
    vectors = {"vector", "index"} & set(first.names)
    with VectorWriter(directory) if vectors else ShardWriter(directory, first) as writer:
        for shard in shards:
            table = pq.read_table(shard)
            rows = table.filter(pc.is_in(table["id"], kept))
            writer.extend(rows.cast(_as_written(rows.schema)))
    shutil.rmtree(everything)


def _as_written(schema: pa.Schema) -> pa.Schema:
    """Undo what Parquet does to a schema: it calls the values of lists otherwise than Arrow."""
    lists = [pa.field(f.name, pa.list_(f.type.value_type)) if pa.types.is_list(f.type) else f for f in schema]
    return pa.schema(lists, schema.metadata)


def paths(directory: Path) -> list[Path]:
    """List the shards of a folder in the order of their rows.

    Raises:
        FileNotFoundError: if there are none.
    """
    shards = sorted(directory.glob("*.parquet"))
    if not shards:
        raise FileNotFoundError(f"{directory} holds no Parquet shard")
    return shards


def batches(directory: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a folder's shards, or some columns of them."""
    for shard in paths(directory):
        with pq.ParquetFile(shard) as file:
            yield from file.iter_batches(512, columns=columns)


class RowGroup(NamedTuple):
    """Some hundred rows of a shard, that are read together.

    Attributes:
        shard: the file.
        number: of the group in it.
    """

    shard: Path
    number: int

    def column(self, name: str) -> pa.ChunkedArray:
        """Read one column."""
        with pq.ParquetFile(self.shard) as file:
            # One thread: whoever reads groups may be one of many processes, and forked from another.
            return file.read_row_group(self.number, columns=[name], use_threads=False)[name]


def row_groups(directory: Path) -> list[RowGroup]:
    """List the row groups of a folder's shards in the order of their rows."""
    return [
        RowGroup(shard, i)
        for shard in paths(directory)
        for i in range(pq.read_metadata(shard).num_row_groups)
    ]
