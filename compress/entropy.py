"""Bytes → fewer bytes, by how often each occurs: rANS, in lanes that NumPy runs side by side.

A coder of the entropy itself: what it leaves is within one percent of what the frequencies allow, where
Huffman codes lose up to a bit a symbol and Zstandard looks for repetitions that rounded weights do not have.

Paper: Asymmetric numeral systems (Duda 2013, arXiv 1311.2540), section 3, the range variant.
"""

import numpy as np
from jaxtyping import Int64, UInt8

TOTAL_BITS = 14  # frequencies of a table sum to 2 to the power of this
_TOTAL = 1 << TOTAL_BITS
_LOW = 1 << 16  # a state stays in [2^16, 2^32), and moves 16 bits at a time
_SYMBOLS_PER_LANE = 2048  # a lane costs four bytes
_MOST_LANES = 4096


def lanes(count: int) -> int:
    """Give the number of states that take turns over `count` symbols."""
    return min(max(count // _SYMBOLS_PER_LANE, 1), _MOST_LANES)


def table(symbols: UInt8[np.ndarray, " symbol"]) -> bytes:
    """Describe how often each byte occurs: up to the last one that does, a byte for each.

    A code c above 0 stands for a weight of (8 + (c - 1) % 8) · 2^((c - 1) // 8): that is three bits behind
    the leading one, which cost less than a thousandth of a bit a symbol.
    """
    counts = np.bincount(symbols, minlength=1)
    # A rare symbol keeps its place even where the commonest one fills the scale.
    scaled = np.maximum(8.0 * counts / max(counts[counts > 0].min(initial=1), counts.max() / 2**24), 8.0)
    exponent = np.floor(np.log2(scaled)).astype(np.int64) - 3
    mantissa = np.round(scaled / 2.0**exponent).astype(np.int64) - 8  # 8 where it rounds up: the next octave
    codes = np.where(counts > 0, np.minimum(1 + 8 * exponent + mantissa, 255), 0)
    return codes.astype(np.uint8).tobytes()


def frequencies(codes: bytes) -> Int64[np.ndarray, " symbol"]:
    """Give the frequencies that a table stands for: whole numbers that sum to 2^14.

    Of what is there, each symbol gets 1, and its share of the rest, rounded down; what is left then goes to
    the first of the most frequent.

    Raises:
        ValueError: if no symbol occurs, or there are more than 256.
    """
    code = np.frombuffer(codes, np.uint8).astype(np.int64)
    present = code > 0
    if len(code) > 256 or not present.any():
        raise ValueError(f"a table of {len(code)} codes, of which {present.sum()} are above 0")
    weight = np.where(present, (8 + (code - 1) % 8) << np.maximum(code - 1, 0) // 8, 0)
    spread = _TOTAL - int(present.sum())
    # In Python's integers: a weight has up to 35 bits.
    whole = int(weight.sum())
    found = np.array([int(w) * spread // whole for w in weight], np.int64) + present
    found[int(found.argmax())] += _TOTAL - int(found.sum())
    return found


def encode(symbols: UInt8[np.ndarray, " symbol"], codes: bytes) -> bytes:
    """Code symbols by a table that has all of them.

    Returns:
        The lanes' last states (uint32), then words of 16 bits in the order of reading; little-endian.

    Raises:
        ValueError: if the table lacks a symbol.
    """
    frequency = frequencies(codes)
    if len(symbols) and (symbols.max() >= len(frequency) or not frequency[symbols].all()):
        raise ValueError("the table lacks a symbol")
    start = np.concatenate([[0], frequency.cumsum()[:-1]])
    number = lanes(len(symbols))
    state = np.full(number, _LOW, np.int64)
    words: list[np.ndarray] = []
    for first in range((len(symbols) - 1) // number * number, -1, -number):
        turn = symbols[first : first + number]
        own, x = frequency[turn], state[: len(turn)]
        full = x >= own << (32 - TOTAL_BITS)
        words.append((x[full] & 0xFFFF)[::-1])
        x = np.where(full, x >> 16, x)
        state[: len(turn)] = (x // own << TOTAL_BITS) + x % own + start[turn]
    behind = np.concatenate(words)[::-1] if words else np.empty(0, np.int64)
    return state.astype("<u4").tobytes() + behind.astype("<u2").tobytes()


def decode(content: bytes, count: int, codes: bytes) -> UInt8[np.ndarray, " symbol"]:
    """Give back what `encode` coded.

    Raises:
        ValueError: if the content is not what `encode` makes of `count` symbols.
    """
    frequency = frequencies(codes)
    start = np.concatenate([[0], frequency.cumsum()[:-1]])
    symbol_at = np.repeat(np.arange(len(frequency), dtype=np.uint8), frequency)
    number = lanes(count)
    if len(content) < 4 * number or len(content) % 2:
        raise ValueError(f"{len(content)} bytes for {number} states and whole words")
    state = np.frombuffer(content, "<u4", number).astype(np.int64)
    words = np.frombuffer(content, "<u2", offset=4 * number).astype(np.int64)
    found = np.empty(count, np.uint8)
    read = 0
    for first in range(0, count, number):
        x = state[: min(number, count - first)]
        place = x & (_TOTAL - 1)
        turn = symbol_at[place]
        found[first : first + number] = turn
        x = frequency[turn] * (x >> TOTAL_BITS) + place - start[turn]
        hungry = np.flatnonzero(x < _LOW)
        if read + len(hungry) > len(words):
            raise ValueError(f"the words end after {first} of {count} symbols")
        x[hungry] = x[hungry] << 16 | words[read : read + len(hungry)]
        read += len(hungry)
        state[: len(x)] = x
    if read != len(words) or (state != _LOW).any():
        raise ValueError(f"{len(words) - read} words are left over, or the states are not where they began")
    return found
