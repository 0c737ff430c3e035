import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from winnow.data.measures.perceptual import SIDE, bits


def plane(seed: int) -> np.ndarray:
    """Make smooth hills."""
    random = np.random.default_rng(seed)
    hills = random.normal(size=(SIDE, SIDE))
    for axis in (0, 1):
        hills = sum(np.roll(hills, shift, axis) for shift in range(-2, 3))
    return hills


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-1e3, 1e3))
def test_contrast_does_not_change_a_bit_and_level_only_the_first(
    seed: int, gain: float, level: float
) -> None:
    hills = plane(seed)
    before, after = bits(hills), bits(gain * hills + level)
    assert before.shape == (144,) and (before != after).sum() <= 2  # the first, and whose place it takes
    assert (bits(gain * hills) == before).all()


@given(st.integers(0, 10**6))
def test_a_little_noise_changes_few_bits_and_another_plane_half_of_them(seed: int) -> None:
    hills = plane(seed)
    noisy = hills + np.random.default_rng(seed + 1).normal(0, 0.02 * hills.std(), hills.shape)
    assert (bits(hills) == bits(noisy)).mean() > 0.94
    assert 0.3 < (bits(hills) == bits(plane(seed + 1))).mean() < 0.7


def test_half_of_the_bits_are_set() -> None:
    assert bits(plane(0)).sum() == 72
