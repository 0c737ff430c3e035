"""Duplicates: sets of samples that are equal but for their encoding, and of samples that are nearly so."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import scipy.sparse
from jaxtyping import Int, UInt16
from scipy.sparse.csgraph import connected_components

_log = logging.getLogger(__name__)

_CROWD = 256  # samples of one bucket that are all compared with each other
_WINDOW = 8  # next ones in a bucket's order that are compared before all others
_STRAYS = 1024  # samples of a bucket, outside of its largest family, that are compared with all of it
_DEPTH = 2  # times that a crowd is parted by further bands
_CHUNK = 1 << 17  # pairs that are compared at once
_LINKS = 1 << 20  # pairs that are kept before they are merged

Rows: TypeAlias = Int[np.ndarray, " _"]
_Compare: TypeAlias = Callable[[Rows, Rows | np.intp], np.ndarray]


def numbered(members: np.ndarray) -> Int[np.ndarray, " sample"]:
    """Renumber sets by their first member; the member of a set of one gets -1."""
    _, first, inverse, counts = np.unique(members, return_index=True, return_inverse=True, return_counts=True)
    several = counts > 1
    number = np.full(len(counts), -1)
    number[np.flatnonzero(several)[np.argsort(first[several])]] = np.arange(several.sum())
    return number[inverse]


def exact_sets(identity: np.ndarray) -> Int[np.ndarray, " sample"]:
    """Number the sets of samples of one identity, in the order of their first members.

    Args:
        identity: what `Modality.identity` gives, as fixed-width bytes.

    Returns:
        The set of each sample, -1 for a sample without an equal.
    """
    return numbered(identity)


def near_sets(
    signature: UInt16[np.ndarray, "sample entry"], exact: Int[np.ndarray, " sample"], *, min_agreement: float
) -> Int[np.ndarray, " sample"]:
    """Number the sets of samples whose signatures agree in most entries.

    Nearness is passed on: two samples are in one set if a chain of near pairs connects them. Equal
    samples count once, so a set holds at least two that differ.

    Pairs of which at most d of the entries differ agree in one of any d + 1 bands of entries, so only
    samples that share a band are compared, and none of them is missed. A band that many share is parted
    by further bands of the rest. Where a crowd still shares those, each member is compared with the next
    few hundred alone, and a warning says so: comparing all would take forever.

    Args:
        signature: what `Modality.signature` gives; without entries nothing is near.
        exact: their exact sets.
        min_agreement: share of equal entries from which two samples are near (0–1].

    Returns:
        The set of each sample, in the order of their first members, -1 for none.

    Raises:
        ValueError: if `min_agreement` is no such share.

    Paper: Mining of Massive Datasets (Leskovec, Rajaraman, Ullman), section 3.9.
    """
    if not 0 < min_agreement <= 1:
        raise ValueError(f"min_agreement must be in (0, 1], not {min_agreement}")
    size, entries = signature.shape
    if not size or not entries:
        return np.full(size, -1)
    once, standing_for = _once(exact)
    different, same = _different(signature, once)
    most_unequal = entries - int(np.ceil(min_agreement * entries - 1e-9))
    family = _Search(signature[different], most_unequal).families()
    return numbered(family[same])[standing_for]


def _once(exact: Rows) -> tuple[Rows, Rows]:
    """Give the samples that count, one of each exact set, and which of them each sample is."""
    alone = np.where(exact < 0, np.arange(len(exact)) + exact.max(initial=-1) + 1, exact)
    _, first, inverse = np.unique(alone, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse]


def _different(signature: UInt16[np.ndarray, "sample entry"], rows: Rows) -> tuple[Rows, Rows]:
    """Give one row of each different signature, and for all rows which of them they equal."""
    every = np.arange(signature.shape[1])
    one, other = _hashes(signature, rows, every, 1), _hashes(signature, rows, every, 2)
    order = np.lexsort((other, one))
    new = np.ones(len(rows), bool)
    new[1:] = (np.diff(one[order]) != 0) | (np.diff(other[order]) != 0)
    equals = np.empty(len(rows), np.intp)
    equals[order] = np.cumsum(new) - 1
    return rows[order[new]], equals


def _hashes(signature: np.ndarray, rows: Rows, entries: Rows, seed: int) -> np.ndarray:
    """Hash some entries of some rows to 64 bits each."""
    factors = np.random.default_rng(seed).integers(1, 1 << 63, signature.shape[1], np.uint64) * 2 + 1
    hashes = np.zeros(len(rows), np.uint64)
    for entry in entries:
        # Adding 1 tells a 0 from an entry that is not there; the shift lets high bits reach low ones.
        hashes = (hashes + signature[rows, entry] + np.uint64(1)) * factors[entry]
        hashes ^= hashes >> np.uint64(29)
    return hashes


class _Search:
    """Looks for all pairs of different signatures that differ in few entries, and merges them."""

    def __init__(self, signature: UInt16[np.ndarray, "row entry"], most_unequal: int) -> None:
        self.signature, self.most_unequal = signature, most_unequal
        self.unequal = _counter(signature)
        self.family = np.arange(len(signature))
        self.links: list[tuple[Rows, Rows]] = []
        self.waiting = 0  # pairs in `links`
        self.crowded = np.zeros(len(signature), bool)

    def families(self) -> Rows:
        every, entries = np.arange(len(self.signature)), np.arange(self.signature.shape[1])
        # What is near to its neighbours in a bucket is one family soon, and need not be compared again.
        for band in self._bands(every, entries):
            self._compare(*self._buckets(every, band), _WINDOW)
            self._merge()
        self._part(every, entries, _DEPTH)
        self._merge()
        if self.crowded.any():
            _log.warning(
                "%d samples have too much in common with too many others: each of them was "
                "compared with some only, and near duplicates among them may be missing",
                self.crowded.sum(),
            )
        return self.family

    def _bands(self, rows: Rows, entries: Rows) -> list[np.ndarray]:
        """Deal the entries to bands, so that each has some of those in which the rows differ most."""
        seen = self.signature[rows[:: -(-len(rows) // _CROWD)]][:, entries]
        values = np.array([len(np.unique(column)) for column in seen.T])
        common = np.array([np.bincount(column).max() for column in seen.T]) if values.max() < 3 else -values
        dealt = entries[np.argsort(common, kind="stable")]
        return [dealt[start :: self.most_unequal + 1] for start in range(self.most_unequal + 1)]

    def _part(self, rows: Rows, entries: Rows, depth: int) -> None:
        """Compare the rows that agree in some band of the entries."""
        for band in self._bands(rows, entries):
            order, ends = self._buckets(rows, band)
            starts = np.flatnonzero(np.concatenate([[True], ends[1:] != ends[:-1]]))
            sizes = np.diff(np.append(starts, len(order)))
            families = self.family[order]
            torn = np.minimum.reduceat(families, starts) != np.maximum.reduceat(families, starts)
            few = np.repeat(torn & (sizes <= _CROWD), sizes)
            self._compare(order[few], _ends(ends[few]), _CROWD)
            rest = np.setdiff1d(entries, band)
            for bucket in np.flatnonzero(torn & (sizes > _CROWD)):
                crowd = order[starts[bucket] : starts[bucket] + sizes[bucket]]
                strays = self._strays(crowd)
                if len(strays) <= min(_STRAYS, len(crowd) / 2):
                    self._compare_all(strays, crowd)
                elif depth and len(rest) > self.most_unequal:
                    self._part(crowd, rest, depth - 1)
                elif len(strays) <= _STRAYS:
                    self._compare_all(strays, crowd)
                else:
                    self.crowded[crowd] = True
                    self._compare(crowd, np.full_like(crowd, len(crowd)), _CROWD)

    def _buckets(self, rows: Rows, band: Rows) -> tuple[Rows, Rows]:
        """Order rows so that those that agree in a band are a run, and give the end of each one's run."""
        hashes = _hashes(self.signature, rows, band, 3)
        order = np.argsort(hashes, kind="stable")
        return rows[order], _ends(hashes[order])

    def _compare(self, order: Rows, ends: Rows, reach: int) -> None:
        """Link each row to the near ones among the next `reach` of its run."""
        places = np.arange(len(order))
        for step in range(1, reach + 1):
            places = places[places + step < ends[places]]
            if not len(places):
                return
            for chunk in _chunks(places):
                a, b = order[chunk], order[chunk + step]
                apart = self.family[a] != self.family[b]
                a, b = a[apart], b[apart]
                near = self.unequal(a, b) <= self.most_unequal
                self._link(a[near], b[near])

    def _strays(self, rows: Rows) -> Rows:
        """Give the rows outside of the largest family."""
        _, family, counts = np.unique(self.family[rows], return_inverse=True, return_counts=True)
        return rows[family != counts.argmax()]

    def _compare_all(self, some: Rows, rows: Rows) -> None:
        for one in some:
            near = rows[self.unequal(rows, one) <= self.most_unequal]
            self._link(near, np.full_like(near, one))

    def _link(self, a: Rows, b: Rows) -> None:
        if not len(a):
            return
        self.links.append((a, b))
        self.waiting += len(a)
        if self.waiting > _LINKS:
            self._merge()

    def _merge(self) -> None:
        """Let linked families become one."""
        if not self.links:
            return
        a, b = (np.concatenate(ends) for ends in zip(*self.links, strict=True))
        self.links, self.waiting = [], 0
        size = len(self.family)
        linked = scipy.sparse.coo_array(
            (np.ones(len(a), bool), (self.family[a], self.family[b])), shape=(size, size)
        )
        self.family = connected_components(linked, directed=False)[1][self.family]


def _counter(signature: UInt16[np.ndarray, "row entry"]) -> _Compare:
    """Make what counts the entries in which two rows differ."""
    if signature.max() > 1:
        return lambda a, b: np.count_nonzero(signature[a] != signature[b], axis=1)
    # Of bits, 64 are compared at once.
    packed = np.packbits(signature.astype(bool), axis=1)
    words = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)
    return lambda a, b: np.bitwise_count(words[a] ^ words[b]).sum(axis=1)


def _ends(keys: np.ndarray) -> Rows:
    """Give for each place of a row of runs the place behind its run."""
    if not len(keys):
        return np.zeros(0, np.intp)
    borders = np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))
    return np.repeat(borders, np.diff(borders, prepend=0))


def _chunks(places: Rows) -> Iterator[Rows]:
    for start in range(0, len(places), _CHUNK):
        yield places[start : start + _CHUNK]
