"""The nearest neighbours of every sample: exact for few, looked for where alike samples are for many.

Comparing all pairs takes a time that grows with the square of the samples. Beyond a threshold a sample is
compared with some thousand others at most, however many there are: with those of the nearest cells, or, if
vectors are sparse, with those that share its rarest features. The share of true neighbours that were
found is measured.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import faiss
import numpy as np
import scipy.sparse
from faiss.contrib.big_batch_search import big_batch_search
from jaxtyping import Float32, Int32, Integer
from sklearn import config_context
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from winnow.data.engine import HERE, Workers, calls

Vectors: TypeAlias = np.ndarray | scipy.sparse.csr_array
Method: TypeAlias = Literal["exact", "cells", "inverted lists"]

_PER_CELL = 256  # samples
_CELLS_LOOKED_AT = 32
_POINTS_PER_CELL = 40  # that a cell's centre is fitted to
_ROUNDS = 8  # of the fit
_LOOKED_AT = 8_192  # entries of inverted lists, for each sample
_SPARE = {"cells": 1.2, "inverted lists": 5}  # candidates for each neighbour; true distances choose
_SAMPLE = 500  # samples whose true neighbours are looked up to measure recall
_BLOCK = 512  # samples handled at once
_WORKING_MB = 32  # for distances at once; scikit-learn's 1,024 MB are slower
_PART = 32_768  # samples that are one worker's job


class Graph(NamedTuple):
    """The k nearest neighbours of each sample, itself excluded.

    Attributes:
        index: rows of the neighbours, nearest first.
        distance: Euclidean, true whatever the method.
        method: "exact", or where neighbours were looked for.
        recall: share of the true neighbours that were found; None if all were.
        recall_sample: samples that recall was measured on.
    """

    index: Int32[np.ndarray, "sample k"]  # type: ignore[assignment]  # a tuple has a method of that name
    distance: Float32[np.ndarray, "sample k"]
    method: Method
    recall: float | None
    recall_sample: int


def graph(vectors: Vectors, *, k: int, exact_up_to: int, seed: int, workers: Workers = HERE) -> Graph:
    """Find the nearest neighbours of each sample.

    Equal samples are neighbours at distance 0: one with more than k equals sees nothing else, so let
    equal ones count once. Sparse vectors are best weighted by how rare a feature is (TF-IDF): neighbours
    that have only the commonest features in common are not found.

    Args:
        vectors: one row per sample, float32.
        k: neighbours of a sample.
        exact_up_to: samples up to which all pairs are compared.
        seed: of cells, and of the samples that recall is measured on.
        workers: who searches, where neighbours are looked for.

    Raises:
        ValueError: if there are not more than k samples.

    Paper: Billion-scale similarity search with GPUs (Johnson et al. 2017), section 2.2: cells.
    """
    count = vectors.shape[0]
    if count <= k:
        raise ValueError(f"{count} samples have no {k} neighbours each")
    # The same bytes from every run: sums of several threads depend on who comes first.
    with threadpool_limits(1):
        if count <= exact_up_to:
            nearest = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(vectors)
            with config_context(working_memory=_WORKING_MB):
                distance, index = nearest.kneighbors()
            return Graph(index.astype(np.int32), distance.astype(np.float32), "exact", None, 0)
        method: Method = "cells" if isinstance(vectors, np.ndarray) else "inverted lists"
        wanted = min(count, round(_SPARE[method] * k) + 1)
        search = _Search(vectors, _places(vectors, seed), k, wanted, seed)
        index, distance = np.empty((count, k), np.int32), np.empty((count, k), np.float32)
        parts = [slice(start, min(count, start + _PART)) for start in range(0, count, _PART)]
        for part, found in zip(parts, calls(_look, search, parts, workers), strict=True):
            index[part], distance[part] = found
        random = np.random.default_rng(seed)
        sample = np.sort(random.choice(count, min(_SAMPLE, count), replace=False))
        truth = _compare_all(vectors, sample, k, wanted)[1][:, -1:]
    # By distance: of several at the same distance none is a truer neighbour than the others.
    found = distance[sample] <= truth * (1 + 1e-5) + 1e-6
    return Graph(index, distance, method, round(float(found.mean()), 4), len(sample))


class _Search(NamedTuple):
    """Where neighbours are looked for: `places` are faiss's cells, or inverted lists of sparse vectors."""

    vectors: Vectors
    places: Any
    k: int
    wanted: int
    seed: int


def _places(vectors: Vectors, seed: int) -> Any:
    return _cells(vectors, seed) if isinstance(vectors, np.ndarray) else _inverted(vectors)


def _look(search: _Search, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Find the neighbours of a part of the samples: the nearest of some that are likely to be near."""
    rows = np.arange(part.start, part.stop)
    look = _in_cells if isinstance(search.vectors, np.ndarray) else _in_lists
    candidates = look(search, rows)
    # Whoever has too few is given any.
    random = np.random.default_rng(search.seed)
    strangers = random.choice(search.vectors.shape[0], search.wanted, replace=False)
    candidates = np.where(candidates < 0, strangers[None].astype(np.int32), candidates)
    nearest = [
        _nearest_of(search.vectors, block, candidates[block - part.start], search.k)
        for block in _blocks(rows)
    ]
    index, distance = (np.concatenate(found) for found in zip(*nearest, strict=True))
    return index, distance


def _cells(vectors: np.ndarray, seed: int) -> faiss.IndexIVFFlat:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    count, width = vectors.shape
    cells = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, max(1, count // _PER_CELL))
    cells.cp.niter, cells.cp.seed = _ROUNDS, seed
    cells.cp.max_points_per_centroid, cells.cp.min_points_per_centroid = _POINTS_PER_CELL, 1
    cells.train(vectors)
    cells.add(vectors)
    cells.nprobe = min(_CELLS_LOOKED_AT, cells.nlist)
    return cells


def _in_cells(search: _Search, rows: np.ndarray) -> np.ndarray:
    """Look in the cells whose centres are nearest."""
    asked = np.ascontiguousarray(search.vectors[rows], dtype=np.float32)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress, asked or not
        found = big_batch_search(search.places, asked, search.wanted, verbose=1)[1]
    return found.astype(np.int32)


def _in_lists(search: _Search, rows: np.ndarray) -> np.ndarray:
    """Look in the lists of a sample's rarest features, and take those that share most."""
    length = np.diff(search.places.indptr)
    found = np.full((len(rows), search.wanted), -1, np.int32)
    for block in _blocks(rows):
        shared = _rarest(search.vectors[block], length) @ search.places
        for row, start, end in zip(block - rows[0], shared.indptr, shared.indptr[1:], strict=False):
            others, weights = shared.indices[start:end], shared.data[start:end]
            if len(others) > search.wanted:
                others = others[np.argpartition(-weights, search.wanted - 1)[: search.wanted]]
            found[row, : len(others)] = others
    return found


def _inverted(vectors: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """List the samples of each feature; of a feature that too many have, some at even intervals."""
    lists = scipy.sparse.csr_array(vectors.T)
    length = np.diff(lists.indptr)
    place = np.arange(lists.nnz) - np.repeat(lists.indptr[:-1], length)
    length = np.repeat(length, length)
    kept = (length <= _LOOKED_AT) | (place * _LOOKED_AT // length != (place + 1) * _LOOKED_AT // length)
    ends = np.concatenate([[0], np.cumsum(kept)])[lists.indptr].astype(np.int32)
    return scipy.sparse.csr_array((lists.data[kept], lists.indices[kept], ends), shape=lists.shape)


def _rarest(block: scipy.sparse.csr_array, length: np.ndarray) -> scipy.sparse.csr_array:
    """Keep the features of each row whose lists together are short enough, the rarest first."""
    owner = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    order = np.lexsort((block.indices, length[block.indices], owner))
    lengths = length[block.indices[order]]
    ends = np.cumsum(lengths)
    before = np.concatenate([[0], ends])[block.indptr[:-1]]
    kept = order[(ends - before[owner] <= _LOOKED_AT) | (ends - lengths == before[owner])]
    entries = (block.data[kept], (owner[kept], block.indices[kept]))
    return scipy.sparse.csr_array(entries, shape=block.shape)


def _nearest_of(
    vectors: Vectors, rows: np.ndarray, candidates: Integer[np.ndarray, "row candidate"], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the k nearest of the candidates of each row by their true distances."""
    asked = np.sort(candidates, axis=1)
    none = asked == rows[:, None]
    none[:, 1:] |= asked[:, 1:] == asked[:, :-1]
    if isinstance(vectors, np.ndarray):
        differences = vectors[asked] - vectors[rows][:, None]
        squared = np.einsum("rcd,rcd->rc", differences, differences)
    else:
        squared = _sparse_squared(vectors, rows, asked)
    squared = np.where(none, np.inf, squared)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]  # of equal distances the earlier sample
    return np.take_along_axis(asked, order, 1), np.sqrt(np.take_along_axis(squared, order, 1))


def _sparse_squared(vectors: scipy.sparse.csr_array, rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
    spread = vectors[rows].toarray()
    others = vectors[asked.ravel()]
    # The sum runs over the entries of the other; what only this one has is its length less what they share.
    owner = np.repeat(np.arange(len(rows)), np.diff(others.indptr[:: asked.shape[1]]))
    here = spread[owner, others.indices].astype(np.float64)
    each = np.repeat(np.arange(asked.size), np.diff(others.indptr))
    shared = np.bincount(each, (here - others.data) ** 2 - here**2, asked.size).reshape(asked.shape)
    length = np.square(spread, dtype=np.float64).sum(1, keepdims=True)
    squared = shared + length
    return np.where(squared < 1e-12 * length, 0, squared)  # of equals, only rounding is left


def _compare_all(vectors: Vectors, rows: np.ndarray, k: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the neighbours of some rows among all samples."""
    count = vectors.shape[0]
    index = np.empty((len(rows), k), np.int32)
    distance = np.empty((len(rows), k), np.float32)
    few = max(1, 2**24 // count)
    for places in (slice(i, i + few) for i in range(0, len(rows), few)):
        asked = rows[places]
        if isinstance(vectors, np.ndarray):
            candidates = faiss.knn(vectors[asked], vectors, wanted)[1]
        else:
            lengths = np.asarray(vectors.multiply(vectors).sum(1)).ravel()
            closeness = 2 * (vectors[asked] @ vectors.T).toarray() - lengths
            candidates = np.argpartition(-closeness, wanted - 1, axis=1)[:, :wanted]
        index[places], distance[places] = _nearest_of(vectors, asked, candidates, k)
    return index, distance


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK))
