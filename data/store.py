"""Samples and tables on disk: Parquet shards, a manifest, decisions; their only reader and writer.

Everything written here is a function of its content alone (no time stamps, sorted keys, fixed
compression), so that a stage that is run twice leaves the same bytes.
"""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse
from jaxtyping import Shaped, UInt16

from winnow.data import shards
from winnow.data.shards import RowGroup, ShardWriter, VectorWriter

SPLITS = ("train", "validation", "test")


class Kind(NamedTuple):
    """What a stage may have to know of a dataset's modality, whose class it need not make.

    Attributes:
        name: of the class.
        media_type: see `Modality`.
        min_agreement: see `Modality`.
    """

    name: str
    media_type: str
    min_agreement: float


def sample_id(source: str, raw: bytes) -> str:
    """Name a sample by a hash of where it came from and what it holds; it never changes."""
    return hashlib.blake2b(source.encode() + b"\0" + raw, digest_size=10).hexdigest()


def sample_writer(ingest: Path) -> ShardWriter:
    """Open the sample shards of an ingest folder for writing rows of (id, payload)."""
    return ShardWriter(ingest / "samples", pa.schema([("id", pa.string()), ("payload", pa.binary())]))


def fingerprint_writer(ingest: Path) -> ShardWriter:
    """Open the fingerprint shards of an ingest folder for writing rows of (id, identity, signature)."""
    columns = [("id", pa.string()), ("identity", pa.binary(16)), ("signature", pa.list_(pa.uint16()))]
    return ShardWriter(ingest / "fingerprints", pa.schema(columns))


def vector_writer(directory: Path) -> VectorWriter:
    """Open a folder of vectors (descriptors or embeddings) for writing rows of (id, vector)."""
    return VectorWriter(directory)


def payloads(ingest: Path, ids: Collection[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Stream (id, payload) in the order of ingestion; memory holds one batch of rows.

    Args:
        ingest: folder that `ingest` wrote.
        ids: the samples wanted; None means all.

    Raises:
        KeyError: if a wanted id is not in the store.
    """
    wanted = None if ids is None else set(ids)
    for batch in shards.batches(ingest / "samples"):
        for id_, payload in zip(batch["id"].to_pylist(), batch["payload"], strict=True):
            if wanted is None:
                yield id_, payload.as_py()
            elif id_ in wanted:
                wanted.remove(id_)
                yield id_, payload.as_py()
    if wanted:
        raise KeyError(f"{len(wanted)} ids are not in {ingest / 'samples'}: {sorted(wanted)[:3]} …")


def payload_groups(ingest: Path) -> list[RowGroup]:
    """List what can be read on its own of the samples: row groups with the columns `id` and `payload`."""
    return shards.row_groups(ingest / "samples")


def read_vectors(directory: Path, ids: Collection[str] | None = None) -> np.ndarray | scipy.sparse.csr_array:
    """Read vectors in the order of `ids` (None: as stored); sparse where most entries are 0.

    Raises:
        KeyError: if a wanted id has no vector.
    """
    files = shards.paths(directory)
    matrix: np.ndarray | scipy.sparse.csr_array
    if all("vector" in pq.read_schema(shard).names for shard in files):
        count, filled = sum(pq.read_metadata(shard).num_rows for shard in files), 0
        for batch in shards.batches(directory, ["vector"]):
            rows = shards.rectangle(batch["vector"])
            if not filled:
                matrix = np.empty((count, rows.shape[1]), np.float32)
            matrix[filled : filled + len(rows)] = rows
            filled += len(rows)
    else:
        matrix = scipy.sparse.vstack([shards.matrix(pq.read_table(shard)) for shard in files], format="csr")
        if not shards.is_sparse(matrix):
            matrix = matrix.toarray()
    places = _places(directory, ids)
    return matrix if places is None else matrix[places]


class Fingerprints(NamedTuple):
    """What tells equal and alike samples without looking at them.

    Attributes:
        identity: 16-byte digest of each sample beyond its encoding.
        signature: entries of which alike samples share most; of length 0 if the modality has none.
    """

    identity: Shaped[np.ndarray, " sample"]
    signature: UInt16[np.ndarray, "sample entry"]


def read_fingerprints(ingest: Path, ids: Collection[str] | None = None) -> Fingerprints:
    """Read fingerprints in the order of `ids` (None: as stored).

    Raises:
        KeyError: if a wanted id has none.
    """
    directory = ingest / "fingerprints"
    table = pa.concat_tables([pq.read_table(shard) for shard in shards.paths(directory)])
    identity = np.array(table["identity"].to_pylist(), "S16")
    found = Fingerprints(identity, shards.rectangle(table["signature"]))
    places = _places(directory, ids)
    return found if places is None else Fingerprints(*(part[places] for part in found))


def _places(directory: Path, ids: Collection[str] | None) -> np.ndarray | None:
    """Give the row of each id, or None if they stand in that order."""
    if ids is None:
        return None
    there = pa.concat_tables([pq.read_table(shard, columns=["id"]) for shard in shards.paths(directory)])[
        "id"
    ]
    wanted = pa.array(ids, pa.string())
    if there.combine_chunks().equals(wanted):
        return None
    places = pc.index_in(wanted, value_set=there)
    if places.null_count:
        missing = wanted.filter(places.is_null()).to_pylist()
        raise KeyError(f"{len(missing)} ids are not in {directory}: {missing[:3]} …")
    return places.to_numpy()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table of one row per sample."""
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(arrow, path, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a table that `write_table` wrote, or some columns of it; missing strings are None."""
    table = pq.read_table(path, columns=columns).to_pandas()
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
    manifest = read_table(ingest / "manifest.parquet", ["id", "label", "split", "group"])
    if (labels / "manifest.parquet").exists():
        return manifest
    decided = read_table(labels / "decisions.parquet")
    if not decided["id"].equals(manifest["id"]):
        raise ValueError(f"{labels} decides about other samples than {ingest} holds")
    manifest["label"] = decided["label"]
    return manifest[decided["action"] != "drop"].reset_index(drop=True)


def read_classes(ingest: Path) -> list[str]:
    """Read the classes of a dataset, in the order that label indices refer to."""
    labels = read_table(ingest / "manifest.parquet", ["label"])["label"]
    return sorted(labels.dropna().unique())


def read_targets(ingest: Path) -> dict[str, str]:
    """Read what is to be told of samples beyond a class, by id, in the order of the manifest.

    Raises:
        ValueError: if the source named none.
    """
    path = ingest / "targets.parquet"
    table = read_table(path) if path.exists() else pd.DataFrame(columns=["id", "target"])
    if table.empty:
        raise ValueError(
            f"{ingest} holds no targets: ingest.source names none, as a table's column 'target' "
            "does; to predict, set data.targets to null"
        )
    return dict(zip(table["id"], table["target"], strict=True))


def write_kind(ingest: Path, kind: Kind) -> None:
    """Write down what kind of data a folder of `ingest` holds."""
    write_json(ingest / "kind.json", kind._asdict())


def read_kind(ingest: Path) -> Kind:
    """Read what `write_kind` wrote."""
    return Kind(**read_json(ingest / "kind.json"))


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
