from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from winnow.data import shards, store
from winnow.data.shards import ROWS_PER_SHARD, ShardWriter, VectorWriter, vector_table

NUMBERS = pa.schema([("id", pa.string()), ("number", pa.int32())])


def rows(count: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table({"id": [str(i) for i in numbers], "number": list(numbers)}, schema=NUMBERS)


def vectors(count: int, density: float, width: int = 60) -> np.ndarray:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(count, width)) * (random.random((count, width)) < density)
    return matrix.astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"id{i}" for i in range(first, first + count)]


@pytest.mark.parametrize("piece", [1, 100, 3000, 9000])
def test_shards_do_not_depend_on_the_pieces_that_rows_come_in(tmp_path: Path, piece: int):
    with ShardWriter(tmp_path / "whole", NUMBERS) as whole:
        for i in range(9000):
            whole.add(str(i), i)
    with ShardWriter(tmp_path / "pieces", NUMBERS) as pieces:
        for first in range(0, 9000, piece):
            pieces.extend(rows(piece, first))
    files = shards.paths(tmp_path / "whole")
    assert [pq.read_metadata(file).num_rows for file in files] == [ROWS_PER_SHARD, ROWS_PER_SHARD, 808]
    for file in files:
        assert file.read_bytes() == (tmp_path / "pieces" / file.name).read_bytes()


def test_single_rows_and_tables_keep_their_order(tmp_path: Path):
    with ShardWriter(tmp_path / "a", NUMBERS) as writer:
        writer.add("0", 0)
        writer.extend(rows(2, 1))
        writer.add("3", 3)
    assert pq.read_table(shards.paths(tmp_path / "a")[0]).equals(rows(4))


def test_a_writer_that_fails_leaves_no_last_shard(tmp_path: Path):
    with pytest.raises(ArithmeticError), ShardWriter(tmp_path / "a", NUMBERS) as writer:
        writer.add("0", 0)
        raise ArithmeticError
    with pytest.raises(FileNotFoundError, match="no Parquet shard"):
        shards.paths(tmp_path / "a")


def test_mostly_zeros_are_stored_by_the_others_alone(tmp_path: Path):
    for name, density in (("sparse", 0.02), ("dense", 1.0)):
        matrix = vectors(500, density, width=2000)
        with VectorWriter(tmp_path / name) as writer:
            writer.extend(vector_table(names(500), matrix))
        columns = pq.read_schema(shards.paths(tmp_path / name)[0]).names
        assert columns == (["id", "index", "value"] if name == "sparse" else ["id", "vector"])
        found = store.read_vectors(tmp_path / name)
        assert scipy.sparse.issparse(found) == (name == "sparse")
        assert np.array_equal(found.toarray() if name == "sparse" else found, matrix)


@pytest.mark.parametrize("mostly", [0.01, 0.9], ids=["mostly sparse", "mostly dense"])
def test_a_folder_may_hold_both(tmp_path: Path, mostly: float):
    many, few = vectors(5000, mostly), vectors(100, 1 - mostly)
    with VectorWriter(tmp_path / "v") as writer:
        writer.extend(vector_table(names(5000), many))
        writer.extend(vector_table(names(100, 5000), few))
    found = store.read_vectors(tmp_path / "v", names(5100))
    assert scipy.sparse.issparse(found) == (mostly < 0.5)
    assert np.array_equal(found.toarray() if mostly < 0.5 else found, np.concatenate([many, few]))


def test_a_vector_of_zeros_alone_is_one_all_the_same(tmp_path: Path):
    with VectorWriter(tmp_path / "v") as writer:
        writer.add("a", np.zeros(9, np.float32))
        writer.add("b", np.eye(9, dtype=np.float32)[3] / 3)
    assert np.array_equal(store.read_vectors(tmp_path / "v").toarray()[1], np.eye(9, dtype=np.float32)[3] / 3)


@pytest.mark.parametrize("density", [0.02, 1.0])
def test_rows_that_are_not_kept_leave_no_trace(tmp_path: Path, density: float):
    matrix, kept = vectors(5000, density), np.arange(5000) % 3 > 0
    for name, wanted in (("all", np.ones(5000, bool)), ("some", kept)):
        with VectorWriter(tmp_path / name) as writer:
            ids = [id_ for id_, is_wanted in zip(names(5000), wanted, strict=True) if is_wanted]
            writer.extend(vector_table(ids, matrix[wanted]))
    shards.keep(tmp_path / "all", ids)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "some"]
    for file in shards.paths(tmp_path / "some"):
        assert file.read_bytes() == (tmp_path / "all" / file.name).read_bytes()
