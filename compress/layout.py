"""How an int8 matrix with zeros in blocks is laid down: which blocks are kept, and what stands in them.

Blocks are counted row by row of the matrix, and so are the entries of each. An index says which are kept:

* `bitmap`: a bit for each block, the lowest of a byte first;
* `gap8`: before each kept block, how many were left out; 255 means as many, and no kept one after them;
* `gap4`: the same in halves of a byte, the lower half first; 15 means as many, and no kept one after them.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int8, UInt8

INDICES = ("bitmap", "gap4", "gap8")
SIDES = (1, 2, 4, 8, 16)  # that a block may have
_MOST_ENTRIES = 16  # of a block
_TABLE_BITS = 4  # that it takes to say how often a symbol occurs, where a table is shared by few


class Layout(NamedTuple):
    """How an int8 matrix is laid down.

    Attributes:
        kind: of `INDICES`, or `dense`.
        block: rows and columns of a block.
    """

    kind: str
    block: tuple[int, int]


def blocks(matrix: Int8[np.ndarray, "row column"], block: tuple[int, int]) -> Int8[np.ndarray, "block entry"]:
    """Cut a matrix into blocks."""
    rows, columns = block
    cut = matrix.reshape(matrix.shape[0] // rows, rows, matrix.shape[1] // columns, columns)
    return cut.transpose(0, 2, 1, 3).reshape(-1, rows * columns)


def unblocks(
    blocks: Int8[np.ndarray, "block entry"], shape: tuple[int, int], block: tuple[int, int]
) -> Int8[np.ndarray, "row column"]:
    """Put blocks together again."""
    rows, columns = block
    cut = blocks.reshape(shape[0] // rows, shape[1] // columns, rows, columns)
    return cut.transpose(0, 2, 1, 3).reshape(shape)


def _gaps(kept: Bool[np.ndarray, " block"], most: int) -> UInt8[np.ndarray, " symbol"]:
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    symbols = np.full(int((gaps // most).sum()) + len(gaps), most, np.uint8)
    symbols[np.cumsum(gaps // most + 1) - 1] = gaps % most
    return symbols


def _kept(gaps: UInt8[np.ndarray, " symbol"], most: int, count: int) -> Bool[np.ndarray, " block"]:
    ends = gaps < most
    places = (np.cumsum(gaps.astype(np.int64) + ends) - 1)[ends]
    if len(places) and places[-1] >= count:
        raise ValueError(f"an index names block {places[-1]} of {count}")
    kept = np.zeros(count, bool)
    kept[places] = True
    return kept


def index(kind: str, kept: Bool[np.ndarray, " block"]) -> UInt8[np.ndarray, " symbol"]:
    """Write down which blocks are kept."""
    if kind == "bitmap":
        return np.packbits(kept, bitorder="little")
    if kind == "gap8":
        return _gaps(kept, 255)
    nibbles = _gaps(kept, 15)
    nibbles = np.append(nibbles, np.full(len(nibbles) % 2, 15, np.uint8))
    return nibbles[::2] | nibbles[1::2] << 4


def unindex(kind: str, symbols: UInt8[np.ndarray, " symbol"], count: int) -> Bool[np.ndarray, " block"]:
    """Read which of `count` blocks are kept.

    Raises:
        ValueError: if the index is of other blocks.
    """
    if kind == "bitmap":
        bits = np.unpackbits(symbols, bitorder="little")
        if len(bits) - count not in range(8) or bits[count:].any():
            raise ValueError(f"a bitmap of {len(bits)} bits for {count} blocks")
        return bits[:count].astype(bool)
    if kind == "gap8":
        return _kept(symbols, 255, count)
    return _kept(np.stack([symbols & 15, symbols >> 4], 1).ravel(), 15, count)


def _bits(symbols: UInt8[np.ndarray, " symbol"]) -> float:
    """Estimate what symbols take when they are coded by frequencies of their own [bits]."""
    counts = np.bincount(symbols, minlength=1)
    counts = counts[counts > 0]
    own = -(counts * np.log2(counts / max(len(symbols), 1))).sum() + _TABLE_BITS * len(counts)
    return min(float(own), 8.0 * len(symbols))


def keeps(matrix: Int8[np.ndarray, "row column"]) -> dict[tuple[int, int], Bool[np.ndarray, "row column"]]:
    """Say which blocks hold anything but zeros, for each block that divides a matrix."""
    found = {(1, 1): matrix != 0}
    for high in SIDES:
        for wide in SIDES:
            if (high, wide) in found or high * wide > _MOST_ENTRIES:
                continue
            # Of halves that were looked at before: side by side, or one above the other.
            if wide > 1 and (half := found.get((high, wide // 2))) is not None and half.shape[1] % 2 == 0:
                found[high, wide] = half[:, ::2] | half[:, 1::2]
            elif wide == 1 and (half := found.get((high // 2, 1))) is not None and len(half) % 2 == 0:
                found[high, wide] = half[::2] | half[1::2]
    return found


def choose(matrix: Int8[np.ndarray, "row column"], code: bool) -> Layout:
    """Choose how a matrix takes the fewest bytes.

    Args:
        matrix: of whole numbers.
        code: whether symbols are coded by how often they occur, or take eight bits each.
    """

    def size(symbols: np.ndarray) -> float:
        return _bits(symbols.view(np.uint8)) if code else 8.0 * symbols.size

    best, least = Layout("dense", (1, 1)), size(matrix.ravel())
    if matrix.all():
        return best
    # Of the blocks of each area, the one that leaves out most.
    by_area: dict[int, tuple[int, tuple[int, int], np.ndarray]] = {}
    for block, keep in keeps(matrix).items():
        area, kept = math.prod(block), int(keep.sum())
        if area not in by_area or kept < by_area[area][0]:
            by_area[area] = (kept, block, keep.ravel())
    for _, block, keep in by_area.values():
        values = size(blocks(matrix, block)[keep].ravel())
        for kind in INDICES:
            bits = values + size(index(kind, keep))
            if bits < least:
                best, least = Layout(kind, block), bits
    return best


def sparse(matrix: Int8[np.ndarray, "row column"], how: Layout) -> tuple[bytes, bytes, int]:
    """Give the index of a matrix, the entries of its kept blocks, and how many are kept."""
    cut = blocks(matrix, how.block)
    keep = np.asarray(cut.any(1))
    return index(how.kind, keep).tobytes(), cut[keep].tobytes(), int(keep.sum())
