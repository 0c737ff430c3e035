"""Recordings as they come in: read whole or not at all, and brought to one rate."""

import io
import math
from functools import lru_cache

import numpy as np
import soundfile
import torch
import torchaudio
from jaxtyping import Float32, Float64

from winnow.data.modality import Reject

MAX_SECONDS = 60.0  # a longer recording is a session, to be cut up before it comes here
_LARGEST_FILTER = 10_000_000  # values of a resampling filter; a broken header can ask for gigabytes
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # what writes a WAV to a pipe leaves in its header


def read(raw: bytes) -> tuple[Float64[np.ndarray, "time channel"], int]:
    """Read all of a recording, whatever its format; a truncated OGG or MP3 passes as a shorter one.

    Returns:
        Its samples [−1–1, or beyond where a format allows it] and their rate [Hz].

    Raises:
        Reject: if it is empty, broken, truncated or too long.
    """
    if not raw:
        raise Reject("the file is empty (0 bytes)")
    _refuse_truncated_wav(raw)
    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            promised, rate = file.frames, file.samplerate
            if promised > MAX_SECONDS * rate:
                raise Reject(f"{promised / rate:.0f} s are longer than {MAX_SECONDS:.0f} s: cut it up")
            samples = file.read(dtype="float64", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise Reject(f"not a recording that libsndfile can read: {error.error_string}") from error
    if len(samples) < promised:
        raise Reject(f"truncated: {len(samples)} of {promised} samples are there")
    if not len(samples):
        raise Reject("the recording holds no sample")
    return samples, rate


def _refuse_truncated_wav(raw: bytes) -> None:
    """Compare a WAV's data chunk with what is there; libsndfile silently reads the rest."""
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        return
    at = 12
    while at + 8 <= len(raw):
        name, size = raw[at : at + 4], int.from_bytes(raw[at + 4 : at + 8], "little")
        there = len(raw) - at - 8
        if name == b"data":
            if size > there and size not in _UNKNOWN_SIZES:
                raise Reject(f"truncated: {there} of {size} bytes of sound are there")
            return
        at += 8 + size + size % 2
    raise Reject("truncated: the WAV has no data chunk")


def resample(mono: Float64[np.ndarray, " time"], rate: int, wanted: int) -> Float32[np.ndarray, " later"]:
    """Bring a recording to another rate [Hz].

    Raises:
        Reject: if one rate is no sensible multiple or part of the other.
    """
    common = math.gcd(rate, wanted)
    if rate // common * (wanted // common) > _LARGEST_FILTER:
        raise Reject(f"{rate} Hz is no sensible multiple or part of {wanted} Hz")
    return _resampler(rate, wanted)(torch.from_numpy(mono).float()).numpy()


@lru_cache(maxsize=4)  # a dataset has few rates, and to make a filter takes as long as to use it
def _resampler(rate: int, wanted: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate, wanted)
