"""Acoustics of a recording as it came: level, clipping, silence, offset, noise and bandwidth."""

import math
from functools import cache

import numpy as np
import scipy.signal
import scipy.stats
from jaxtyping import Bool, Float64

WINDOW_SECONDS = 0.025
FRAMES_PER_SECOND = 100
_STEP = 2.0**-15  # between two values of 16 bits
_PEAK_STEPS = 50  # that a recording must rise to: below, rounding makes flat tops and noise of its own
_NOISE_SECONDS = 0.1  # of sound, that an amplitude distribution can be told by
_ABOVE = 1e-6  # of the energy: what lies above the bandwidth, -60 dB
_SHAPE = 0.4  # of the gamma distribution of the amplitudes of speech
_SNR_DB = np.arange(-20.0, 61.0)
_QUANTILES = 250  # of each distribution, to integrate over


def measures(mono: Float64[np.ndarray, " time"], rate: int) -> dict[str, float]:
    """Measure a recording of at least one window, at the rate it came with; NaN is what cannot be told."""
    window, hop = round(rate * WINDOW_SECONDS), max(1, rate // FRAMES_PER_SECOND)
    frames = np.lib.stride_tricks.sliding_window_view(mono, window)[::hop]
    level = _decibels(np.einsum("ij,ij->i", frames, frames) / window) / 2
    peak, rms = float(np.abs(mono).max()), math.sqrt(np.square(mono).mean())
    swing = mono - mono.mean()
    return {
        "seconds": len(mono) / rate,
        "peak_dbfs": float(_decibels(peak)),
        "rms_dbfs": float(_decibels(rms)),
        "loudest_frame_dbfs": float(level.max()),
        "clipped": _clipped(np.abs(mono) >= 0.98 * peak) if peak >= _PEAK_STEPS * _STEP else math.nan,
        "silence": float((level < max(level.max() - 40, -60)).mean()),
        "dc_offset": abs(float(mono.mean())) / rms if rms else math.nan,
        "snr_db": snr_db(swing) if len(mono) >= _NOISE_SECONDS * rate else math.nan,
        "bandwidth_share": bandwidth_share(swing),
        "native_rate_hz": float(rate),
    }


def _decibels(amplitude: np.ndarray | float) -> np.ndarray | np.floating:
    return 20 * np.log10(np.maximum(amplitude, 1e-10))


def _clipped(at_peak: Bool[np.ndarray, " time"]) -> float:
    """Share of samples that stay at the peak for three or more: a clipped wave has a flat top.

    At its own peak, not at full scale: it may have been turned down afterwards.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], at_peak, [False]])))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= 3].sum()) / len(at_peak)


def snr_db(swing: Float64[np.ndarray, " time"]) -> float:
    """Estimate how far speech is above noise, by how far its amplitudes are from those of noise.

    Few amplitudes of speech are large and most are small; noise evens them out. It needs no pause, but what
    is no speech (a tone, say) is measured as if it were. Between -20 and 60 dB; NaN for hardly a sound.

    Paper: Robust Signal-to-Noise Ratio Estimation Based on Waveform Amplitude Distribution Analysis
    (Kim, Stern 2008).
    """
    size = np.abs(swing)
    if size.max() < _PEAK_STEPS * _STEP:
        return math.nan
    # What was rounded to 0 lies anywhere below half a step, on average e times closer to 0 than that.
    size = np.maximum(size, _STEP / 2 / math.e)
    return float(np.interp(math.log(size.mean()) - np.log(size).mean(), _peakedness(), _SNR_DB))


@cache
def _peakedness() -> Float64[np.ndarray, " snr"]:
    """Give log E|z| - E log|z| of speech in Gaussian noise, at each of the signal-to-noise ratios."""
    middles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    speech = scipy.stats.gamma.ppf(middles, _SHAPE)
    speech /= math.sqrt(np.square(speech).mean())
    noise = scipy.stats.norm.ppf(middles)
    found = []
    for level in 10 ** (-_SNR_DB / 20):
        size = np.abs(speech[:, None] + level * noise)
        found.append(math.log(size.mean()) - np.log(size).mean())
    return np.maximum.accumulate(found)


def bandwidth_share(swing: Float64[np.ndarray, " time"]) -> float:
    """Say up to which share of the band there is sound: a half, if 8 kHz were resampled to 16 kHz.

    Above it lies a millionth of the energy. What 16 bits round away is no sound; NaN if that is all.
    """
    length = min(len(swing), 1024)
    power = scipy.signal.welch(swing, nperseg=length, detrend=False, scaling="spectrum")[1]
    # Rounding is white: of a step's variance, each bin holds the same part. Twice as much is never reached.
    power *= len(power) * np.square(swing).mean() / (power.sum() * len(power) or 1)
    sound = np.maximum(power - 2 * _STEP**2 / 12 / len(power), 0)
    if not sound.any():
        return math.nan
    above = np.cumsum(sound[::-1])[::-1]
    return float(np.flatnonzero(above > _ABOVE * above[0])[-1] + 1) / len(power)
