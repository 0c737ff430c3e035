import math

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from conftest import tone
from hypothesis import given
from hypothesis import strategies as st

from winnow.data.measures import acoustics

RANDOM = np.random.default_rng(0)


def measured(samples: np.ndarray, rate: int = 8000) -> dict[str, float]:
    return acoustics.measures(np.asarray(samples, np.float64), rate)


def speech(seconds: float = 4.0, rate: int = 8000) -> np.ndarray:
    """Amplitudes distributed as those of speech are, in all of the band, as loud as speech."""
    sound = RANDOM.gamma(0.4, 1, round(seconds * rate)) * RANDOM.choice([-1, 1], round(seconds * rate))
    return 0.05 * sound / sound.std()


def rounded(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32768) / 32768


def test_level_and_offset_of_a_sine() -> None:
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    plain = measured(sine)
    assert plain["peak_dbfs"] == pytest.approx(-6.02, abs=0.01)
    assert plain["rms_dbfs"] == pytest.approx(-9.03, abs=0.01)
    assert plain["loudest_frame_dbfs"] == pytest.approx(-9.03, abs=0.05)
    assert plain["dc_offset"] < 1e-3
    assert measured(sine + 0.25)["dc_offset"] == pytest.approx(0.25 / np.sqrt(0.125 + 0.0625), 1e-3)


@pytest.mark.parametrize("gain", [2, 4, 8])
def test_clipping_shows_even_where_the_level_was_lowered_afterwards(gain: float) -> None:
    loud = tone(300, 0.5) * np.linspace(0.5, 1, 4000)
    clipped = 0.3 * np.clip(gain * loud / np.abs(loud).max(), -1, 1)
    assert measured(rounded(clipped))["clipped"] > (0.001 if gain == 2 else 0.005)
    assert measured(loud)["clipped"] == 0


def test_clipping_of_what_is_hardly_more_than_rounding_cannot_be_told() -> None:
    assert math.isnan(measured(rounded(2e-5 * tone(300, 0.3)))["clipped"])


def test_silence_is_what_is_far_below_the_loudest_frame_or_below_hearing() -> None:
    sound = tone(300, 1.0)
    half = np.concatenate([sound, np.zeros(8000)])
    assert measured(half)["silence"] == pytest.approx(0.5, abs=0.02)
    assert measured(sound)["silence"] == 0
    dither = rounded(RANDOM.normal(0, 1 / 32768, 8000))
    assert measured(dither)["silence"] == 1 and measured(dither)["loudest_frame_dbfs"] < -80


@given(level=st.floats(0.02, 1.0), snr=st.sampled_from([-5.0, 0.0, 5.0, 10.0, 20.0]))
def test_noise_in_speech_is_measured_at_any_level(level: float, snr: float) -> None:
    sound = speech(8.0)
    noise = RANDOM.normal(0, sound.std() * 10 ** (-snr / 20), len(sound))
    assert acoustics.snr_db(level * (sound + noise)) == pytest.approx(snr, abs=1.5)


def test_the_table_of_peakedness_is_that_of_drawn_samples() -> None:
    sound = RANDOM.gamma(0.4, 1, 400_000) * RANDOM.choice([-1, 1], 400_000)
    sound /= np.sqrt(np.square(sound).mean())
    for snr in (-10, 0, 10, 25):
        size = np.abs(sound + RANDOM.normal(0, 10 ** (-snr / 20), len(sound)))
        drawn = np.log(size.mean()) - np.log(size).mean()
        assert acoustics._peakedness()[snr + 20] == pytest.approx(drawn, abs=0.01)


def test_noise_of_what_is_too_short_or_digital_silence_is_not_measured() -> None:
    assert math.isnan(measured(speech(0.09))["snr_db"])
    assert math.isnan(acoustics.snr_db(np.zeros(8000)))
    constant = measured(np.full(8000, 0.5))
    assert math.isnan(constant["snr_db"]) and math.isnan(constant["bandwidth_share"])
    assert math.isnan(measured(np.zeros(8000))["dc_offset"])


@pytest.mark.parametrize("times", [2, 3, 6])
@pytest.mark.parametrize("level", [1.0, 0.05])
def test_bandwidth_shows_a_lower_rate_that_a_recording_came_from(times: int, level: float) -> None:
    sound = level * speech(1.0)
    assert measured(sound)["bandwidth_share"] > 0.95
    raised = rounded(scipy.signal.resample_poly(sound, times, 1))
    assert measured(raised, 8000 * times)["bandwidth_share"] == pytest.approx(1 / times, abs=0.1)


@given(st.integers(0, 10**6), st.integers(200, 4000), st.sampled_from([0.0, 1e-6, 1e-3, 1.0]))
def test_every_measure_is_a_number_or_not_measured_and_never_a_warning(
    seed: int, size: int, level: float
) -> None:
    random = np.random.default_rng(seed)
    found = measured(level * random.normal(size=size) * (random.random(size) < random.random()))
    assert not any(math.isinf(value) for value in found.values())
    for share in ("clipped", "silence", "bandwidth_share"):
        assert math.isnan(found[share]) or 0 <= found[share] <= 1
