import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.data.judging import duplicates


def by_hand(signature: np.ndarray, exact: np.ndarray, min_agreement: float) -> list[int]:
    """Compare every pair, follow every chain."""
    size = len(signature)
    family = list(range(size))
    for i in range(size):
        for j in range(i):
            equal = exact[i] >= 0 and exact[i] == exact[j]
            near = np.mean(signature[i] == signature[j]) >= min_agreement - 1e-9
            if equal or near:
                old, new = family[i], family[j]
                family = [new if f == old else f for f in family]
    numbers: dict[int, int] = {}
    found = []
    for i in range(size):
        members = [j for j in range(size) if family[j] == family[i]]
        alike = len({exact[j] if exact[j] >= 0 else size + j for j in members}) == 1
        found.append(-1 if alike else numbers.setdefault(family[i], len(numbers)))
    return found


def drawn(seed: int, entries: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw 24 signatures around four, some of them equal, and exact sets that do not contradict them."""
    random = np.random.default_rng(seed)
    seeds = random.integers(0, values, (4, entries))
    signature = seeds[random.integers(0, 4, 24)]
    changed = random.random(signature.shape) < random.choice([0.02, 0.1, 0.3])
    signature[changed] = random.integers(0, values, changed.sum())
    classes = np.unique(signature, axis=0, return_inverse=True)[1]
    # Equal samples have equal signatures, but not the other way round.
    exact = duplicates.numbered(np.where(random.random(24) < 0.5, classes, 100 + np.arange(24)))
    return signature.astype(np.uint16), exact


@contextmanager
def _warnings() -> Iterator[list[logging.LogRecord]]:
    handler = BufferingHandler(capacity=1000)
    logger = logging.getLogger("winnow.data.judging.duplicates")
    logger.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)


@given(st.lists(st.sampled_from([b"a", b"b", b"ab", b"c"]), max_size=12))
def test_exact_sets_are_those_of_one_identity_numbered_by_first_member(identities: list[bytes]) -> None:
    found = duplicates.exact_sets(np.array(identities, "S16"))
    numbers: dict[bytes, int] = {}
    known = [
        -1 if identities.count(one) == 1 else numbers.setdefault(one, len(numbers)) for one in identities
    ]
    assert found.tolist() == known


@given(
    seed=st.integers(0, 10**6),
    entries=st.integers(1, 70),
    values=st.sampled_from([2, 3, 60_000]),
    min_agreement=st.floats(0.05, 1),
)
def test_near_sets_are_those_of_comparing_every_pair(
    seed: int, entries: int, values: int, min_agreement: float
) -> None:
    signature, exact = drawn(seed, entries, values)
    known = by_hand(signature, exact, min_agreement)
    assert duplicates.near_sets(signature, exact, min_agreement=min_agreement).tolist() == known


@given(seed=st.integers(0, 10**6), values=st.sampled_from([2, 3, 60_000]), unequal=st.integers(0, 5))
def test_without_a_warning_crowds_are_searched_without_a_loss(seed: int, values: int, unequal: int) -> None:
    signature, exact = drawn(seed, 16, values)
    min_agreement = (16 - unequal) / 16
    known = np.array(by_hand(signature, exact, min_agreement))
    sizes = {"_CROWD": 2, "_STRAYS": 1, "_WINDOW": 1, "_CHUNK": 3, "_LINKS": 2}
    with pytest.MonkeyPatch.context() as small, _warnings() as warned:  # so that these few are a crowd
        for name, value in sizes.items():
            small.setattr(duplicates, name, value)
        found = duplicates.near_sets(signature, exact, min_agreement=min_agreement)
    if not warned:
        assert found.tolist() == known.tolist()
    assert (known[found >= 0] >= 0).all()
    for number in range(found.max() + 1):
        assert len(set(known[found == number])) == 1


@pytest.mark.parametrize("values", [2, 60_000])
def test_crowds_are_parted_without_a_loss(values: int, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    signature = random.integers(0, values, (1500, 64)).astype(np.uint16)
    signature[:1200, :30] = signature[0, :30]  # what much of a dataset has in common
    copies = signature[:150].copy()
    for row in copies:
        row[random.choice(64, 4, replace=False)] ^= 1
    signature = np.concatenate([signature, copies])
    with caplog.at_level(logging.WARNING):
        found = duplicates.near_sets(signature, np.full(1650, -1), min_agreement=60 / 64)
    unequal = (signature[:, None] != signature[None]).sum(2)
    i, j = np.nonzero(np.triu(unequal <= 4, 1))
    assert (found[i] == found[j]).all() and (found[i] >= 0).all()
    assert set(np.flatnonzero(found >= 0)) == {*i, *j}
    assert caplog.records == []


def test_many_copies_of_one_sample_cost_no_more_than_few(caplog: pytest.LogCaptureFixture) -> None:
    # 40,000 × 40,000 pairs are more than anyone waits for.
    random = np.random.default_rng(0)
    signature = np.tile(random.integers(0, 60_000, 64), (40_000, 1)).astype(np.uint16)
    signature[20_000:, 0] = np.arange(20_000)
    signature[-1] = random.integers(0, 60_000, 64)
    with caplog.at_level(logging.WARNING):
        found = duplicates.near_sets(signature, np.full(40_000, -1), min_agreement=0.8)
    assert (found[:-1] == 0).all() and found[-1] == -1
    assert caplog.records == []


def test_a_crowd_that_nothing_parts_is_said_to_be_compared_in_part(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_CROWD", 8)
    monkeypatch.setattr(duplicates, "_STRAYS", 8)
    # Each row differs from a common one in two of the entries, and so from each other in two or more.
    pairs = np.array([(i, j) for i in range(64) for j in range(i)])
    signature = np.zeros((len(pairs), 64), np.uint16)
    signature[np.arange(len(pairs))[:, None], pairs] = 1
    with caplog.at_level(logging.WARNING):
        found = duplicates.near_sets(signature, np.full(len(pairs), -1), min_agreement=63 / 64)
    assert (found == -1).all()
    assert "samples have too much in common" in caplog.text and "may be missing" in caplog.text


def test_equals_alone_are_no_near_set_and_share_the_set_of_their_like() -> None:
    signature = np.array([[1, 2], [3, 4], [1, 2], [1, 9], [3, 4]], np.uint16)
    exact = np.array([0, 1, 0, -1, 1])
    found = duplicates.near_sets(signature, exact, min_agreement=0.5)
    assert found.tolist() == [0, -1, 0, 0, -1]


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_without_samples_or_entries_nothing_is_near(shape: tuple[int, int]) -> None:
    found = duplicates.near_sets(np.zeros(shape, np.uint16), np.full(shape[0], -1), min_agreement=0.9)
    assert found.tolist() == [-1] * shape[0]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="min_agreement"):
        duplicates.near_sets(np.zeros((2, 4), np.uint16), np.full(2, -1), min_agreement=share)
