import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.compress import entropy


def entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / len(symbols))).sum()) / 8


@given(st.binary(max_size=5000))
def test_gives_back_any_bytes(content: bytes) -> None:
    symbols = np.frombuffer(content, np.uint8)
    if not len(symbols):
        return
    table = entropy.table(symbols)
    assert np.array_equal(entropy.decode(entropy.encode(symbols, table), len(symbols), table), symbols)


@pytest.mark.parametrize("count", [1, 2047, 2048, 4095, 4096, 4097, 100_003])
@pytest.mark.parametrize("spread", [0.3, 3.0, 35.0, 1000.0])
def test_gives_back_any_number_of_symbols_in_any_number_of_lanes(count: int, spread: float) -> None:
    values = np.clip(np.random.default_rng(count).normal(0, spread, count), -127, 127).astype(np.int8)
    symbols = values.view(np.uint8)
    table = entropy.table(symbols)
    coded = entropy.encode(symbols, table)
    assert np.array_equal(entropy.decode(coded, count, table), symbols)


@pytest.mark.parametrize("spread", [2.0, 35.0])
def test_takes_what_the_entropy_says_and_half_a_percent(spread: float) -> None:
    values = np.clip(np.random.default_rng(0).normal(0, spread, 50_000), -127, 127).astype(np.int8)
    symbols = values.view(np.uint8)
    coded = entropy.encode(symbols, entropy.table(symbols))
    # Beside it, a state of four bytes for each lane, of which half are put to use.
    assert len(coded) <= 1.005 * entropy_bytes(symbols) + 4 * entropy.lanes(50_000)


def test_one_symbol_a_million_times_is_nothing_but_states() -> None:
    symbols = np.full(1_000_000, 7, np.uint8)
    table = entropy.table(symbols)
    coded = entropy.encode(symbols, table)
    assert len(table) == 8 and len(coded) == 4 * entropy.lanes(1_000_000)
    assert np.array_equal(entropy.decode(coded, 1_000_000, table), symbols)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=256).filter(any))
def test_frequencies_are_whole_and_sum_to_a_power_of_two(codes: list[int]) -> None:
    found = entropy.frequencies(bytes(codes))
    assert found.sum() == 2**entropy.TOTAL_BITS
    assert np.array_equal(found > 0, np.array(codes) > 0)


def test_a_naive_decoder_reads_the_same() -> None:
    """One state after the other, as the format's page says it."""
    symbols = np.random.default_rng(0).geometric(0.2, 9000).clip(max=255).astype(np.uint8)
    table = entropy.table(symbols)
    coded, frequency = entropy.encode(symbols, table), entropy.frequencies(table).tolist()
    lanes = entropy.lanes(len(symbols))
    assert lanes == 4
    state = [int.from_bytes(coded[4 * i : 4 * i + 4], "little") for i in range(lanes)]
    place, found = 4 * lanes, []
    for i in range(len(symbols)):
        x, slot = state[i % lanes], state[i % lanes] % 2**14
        symbol, start = 0, 0
        while slot >= start + frequency[symbol]:
            start += frequency[symbol]
            symbol += 1
        found.append(symbol)
        x = frequency[symbol] * (x >> 14) + slot - start
        if x < 2**16:
            x = x << 16 | int.from_bytes(coded[place : place + 2], "little")
            place += 2
        state[i % lanes] = x
    assert found == symbols.tolist() and place == len(coded) and state == [2**16] * lanes


def test_a_rare_symbol_beside_millions_of_others_is_kept() -> None:
    symbols = np.zeros(3_000_000, np.uint8)
    symbols[1_234_567] = 200
    table = entropy.table(symbols)
    coded = entropy.encode(symbols, table)
    assert np.array_equal(entropy.decode(coded, len(symbols), table), symbols)
    assert len(coded) < 4 * entropy.lanes(len(symbols)) + 300


def test_what_is_damaged_is_an_error_or_other_symbols_but_never_more() -> None:
    random = np.random.default_rng(0)
    symbols = random.integers(0, 40, 1500).astype(np.uint8)
    table = entropy.table(symbols)
    coded = entropy.encode(symbols, table)
    refused = 0
    for _ in range(100):
        broken = bytearray(coded)
        broken[random.integers(len(broken))] ^= 1 << random.integers(8)
        try:
            assert len(entropy.decode(bytes(broken), 1500, table)) == 1500
        except ValueError:
            refused += 1
    assert refused > 90
    for wrong in (coded[:-2], coded + b"\0\0", coded[:3], coded[:-1], b""):
        with pytest.raises(ValueError):
            entropy.decode(wrong, 1500, table)


def test_refuses_a_table_of_nothing_and_symbols_that_it_lacks() -> None:
    for codes in (b"", bytes(5), bytes(256) + b"\1"):
        with pytest.raises(ValueError, match="a table of"):
            entropy.frequencies(codes)
    for symbol in (0, 2, 255):
        with pytest.raises(ValueError, match="lacks"):
            entropy.encode(np.array([symbol], np.uint8), b"\0\1")


def test_the_number_of_lanes_grows_with_the_symbols_and_has_an_end() -> None:
    assert [entropy.lanes(n) for n in (0, 1, 4095, 4096, 10**6, 10**9)] == [1, 1, 1, 2, 488, 4096]
    assert math.log2(entropy.lanes(10**9)) == 12
