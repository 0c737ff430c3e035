"""Speech: a recording is a row of frames, of its log-mel spectrogram or of what convolutions make of it."""

import base64
import hashlib
import io
import math
from collections.abc import Mapping
from typing import ClassVar, TypeVar, final

import numpy as np
import soundfile
import torch
import torchaudio
from jaxtyping import Bool, Float, Float32, Int, UInt16
from torch import Generator, Tensor, nn
from torch.nn import functional

from winnow.data.measures import acoustics, perceptual, recordings
from winnow.data.measures.acoustics import FRAMES_PER_SECOND, WINDOW_SECONDS
from winnow.data.modality import Decoded, Modality, Reject, Tokens

_BANDS = 40  # of the spectrogram that describes a recording, where no network reads it
_NOT_ZERO = 1e-6  # stands in for a 0 in a real frame: a frame of zeros means padding
_LATEST_SECONDS = 0.1  # that a variant starts later: a tenth of a long recording would be words
_PLAYABLE_BYTES = 100_000  # a preview carries a player up to this size


class _Recording(Modality):
    """What recordings have in common, however a network reads them."""

    suffixes: ClassVar[frozenset[str]] = frozenset({".wav", ".flac", ".ogg", ".mp3"})
    media_type: ClassVar[str] = "audio/flac"
    min_agreement: ClassVar[float] = 0.94

    def __init__(self, sample_rate_hz: int, seconds: float, mels: int) -> None:
        self.sample_rate_hz, self.seconds, self.mels = sample_rate_hz, seconds, mels
        window = round(sample_rate_hz * WINDOW_SECONDS)
        self._spectrogram = torchaudio.transforms.MelSpectrogram(
            sample_rate=sample_rate_hz,
            # Twice the usual: at 8 kHz the lowest bands would have no FFT bin otherwise.
            n_fft=2 ** math.ceil(math.log2(window) + 1),
            win_length=window,
            hop_length=sample_rate_hz // FRAMES_PER_SECOND,
            n_mels=mels,
            pad_mode="constant",
        )

    def decode(self, raw: bytes) -> Decoded:
        """Keep a recording as 16-bit mono FLAC; louder than full scale is turned down to it.

        The content decides, not the file's ending. A truncated OGG or MP3 cannot be told from a
        shorter one and passes.
        """
        samples, rate = recordings.read(raw)
        if not np.isfinite(samples).all():
            raise Reject("samples are NaN or infinite")
        mono = samples.mean(axis=1)
        if len(mono) < rate * WINDOW_SECONDS:
            raise Reject(f"{len(mono)} samples at {rate} Hz are less than one window of 25 ms")
        resampled = recordings.resample(mono, rate, self.sample_rate_hz)
        loudest = float(np.abs(resampled).max())
        pcm = np.round(resampled / max(loudest, 1.0) * 32767).astype(np.int16)
        if np.ptp(pcm) == 0:
            raise Reject("digital silence: all samples are equal")
        payload = io.BytesIO()
        soundfile.write(payload, pcm, self.sample_rate_hz, format="FLAC", subtype="PCM_16")
        measures = {"channels": float(samples.shape[1]), **acoustics.measures(mono, rate)}
        return Decoded(payload.getvalue(), measures)

    def cuts(self, measures: Mapping[str, float]) -> bool:
        return measures["seconds"] > self.seconds

    def _log_mel(self, payload: bytes) -> Float32[Tensor, "frame mel"]:
        """Take the spectrogram of a whole recording, whatever its level and DC offset."""
        samples, _ = soundfile.read(io.BytesIO(payload), dtype="float32")
        wave = torch.from_numpy(samples)
        wave = wave - wave.mean()
        wave = wave / wave.square().mean().sqrt().clamp(min=1e-4)
        # The floor lies some 60 dB below speech, where 16 bits of a quiet recording end.
        return torch.log(self._spectrogram(wave).T + 1e-3)

    def descriptor(self, payload: bytes) -> Float32[np.ndarray, " feature"]:
        """Describe a recording by its spectrum: mean, spread, change, and course in sixths."""
        real = self._log_mel(payload)
        real = (real - real.mean()) / (real.std() + 1e-5)
        loud = real.mean(dim=1)
        # Silence around the words would shift the parts against each other.
        heard = torch.nonzero(loud > loud.max() - 0.6 * (loud.max() - loud.min())).ravel()
        spoken = real[int(heard[0]) : int(heard[-1]) + 1]
        places = (torch.arange(7) * len(spoken)) // 6
        sixths = [spoken[a : max(a + 1, b)].mean(dim=0) for a, b in places.unfold(0, 2, 1).tolist()]
        change = spoken.diff(dim=0).abs().sum(dim=0) / len(spoken)
        spread = spoken.std(dim=0, correction=0)
        return torch.cat([spoken.mean(dim=0), spread, change, *sixths]).numpy()

    def identity(self, payload: bytes) -> bytes:
        """Tell recordings apart that differ in any sample."""
        samples, _ = soundfile.read(io.BytesIO(payload), dtype="int16")
        return hashlib.blake2b(samples.tobytes(), digest_size=16).digest()

    def signature(self, payload: bytes) -> UInt16[np.ndarray, " entry"]:
        """Hash what a recording's spectrogram looks like, however long it is.

        A copy that was turned up or coded again has nearly the same; one that was cut has not, and is near
        by its vector.
        """
        log_mel = self._log_mel(payload)
        # What is 20 dB below the mean is where codecs and faint noise do as they please.
        floor = log_mel.exp().mean().log() + math.log(0.01)
        side = perceptual.SIDE
        plane = functional.adaptive_avg_pool2d(torch.logaddexp(log_mel, floor)[None], (side, side))[0]
        return perceptual.bits(plane.double().numpy())

    def preview(self, payload: bytes) -> str:
        samples, _ = soundfile.read(io.BytesIO(payload), dtype="float32")
        shown = _waveform(samples)
        if len(payload) > _PLAYABLE_BYTES:
            return shown
        data = base64.b64encode(payload).decode()
        return f'{shown}<audio controls preload="none" src="data:audio/flac;base64,{data}"></audio>'


@final
class Speech(_Recording):
    """Mono recordings as stacks of log-mel frames, 10 ms apart and 25 ms wide.

    Args:
        sample_rate_hz: rate that recordings are kept at.
        seconds: of a sample: the middle of a longer recording, a shorter one is padded at its end.
        mels: bands of the spectrogram.
        frames_per_token: frames that are stacked to one token.

    Raises:
        ValueError: if not even one token fits.
    """

    def __init__(self, sample_rate_hz: int, seconds: float, mels: int, frames_per_token: int) -> None:
        super().__init__(sample_rate_hz, seconds, mels)
        tokens = round(seconds * FRAMES_PER_SECOND) // frames_per_token
        if tokens < 1:
            raise ValueError(
                f"no token of {frames_per_token} frames fits in {seconds} s of "
                f"{FRAMES_PER_SECOND} frames a second"
            )
        self.frames_per_token = frames_per_token
        self.frames = tokens * frames_per_token
        self.grid = (tokens,)

    def load(self, payload: bytes) -> Float32[Tensor, "frame mel"]:
        real = self._log_mel(payload)
        start = max(0, (len(real) - self.frames) // 2)
        real = real[start : start + self.frames]
        real = _mark_real((real - real.mean()) / (real.std() + 1e-5))
        x = torch.zeros(self.frames, self.mels)
        x[: len(real)] = real
        return x

    def transform(self, x: Tensor, generator: Generator, strength: float) -> Tensor:
        """Draw another voice: start later, vary tempo, vocal tract, level and tilt, hide a narrow band.

        At strength 1 a tenth may be cut from the start, tempo and vocal tract change by up to a tenth. Beyond
        it voices differ more, recordings do not: a word of which much is hidden is hard to tell from others.
        Padding stays zero.

        Paper: vocal tract length perturbation (Jaitly, Hinton 2013).
        """
        real = x[_is_real(x)]
        late, level, tilt, band, tempo, tract = torch.rand(6, generator=generator).tolist()
        mild = min(strength, 1.0)
        real = real[int(late * mild * min(0.1 * len(real), _LATEST_SECONDS * FRAMES_PER_SECOND)) :]
        real = self._spoken(real, *(math.exp(0.1 * strength * (2 * u - 1)) for u in (tempo, tract)))
        slope = torch.linspace(-1, 1, self.mels)
        real = real + 0.2 * mild * ((2 * level - 1) + (2 * tilt - 1) * slope)
        width = int(self.mels // 8 * mild)
        first = int(band * (self.mels - width + 1))
        real[:, first : first + width] = real.mean()
        variant = torch.zeros_like(x)
        variant[: len(real)] = _mark_real(real)
        return variant

    def _spoken(
        self, real: Float[Tensor, "frame mel"], tempo: float, tract: float
    ) -> Float[Tensor, "other mel"]:
        """Stretch frames in time, and bands about the lowest; what is above the highest repeats it."""
        frames = min(max(round(len(real) * tempo), 1), self.frames)
        # Both axes of a plane run from -1 to 1.
        bands = (torch.linspace(0, 1, self.mels) * tract).clamp(max=1) * 2 - 1
        times = torch.linspace(-1, 1, frames) if frames > 1 else torch.zeros(1)
        where = torch.stack(torch.meshgrid(times, bands, indexing="ij")[::-1], -1)
        return functional.grid_sample(
            real[None, None], where[None], mode="bilinear", padding_mode="border", align_corners=True
        )[0, 0]

    def draw(self, generator: Generator) -> Float32[Tensor, "frame mel"]:
        return _mark_real(torch.randn(self.frames, self.mels, generator=generator))

    def frontend(self, dim: int) -> nn.Module:
        return _Frames(self.mels, self.frames_per_token, dim)


@final
class Waveform(_Recording):
    """Mono recordings as they are, of mean 0 and variance 1, for networks that begin with convolutions.

    Args:
        sample_rate_hz: rate that recordings are kept at.
        seconds: of a sample: the middle of a longer recording, a shorter one is padded at its end.
        convolutions: channels, kernel and stride of each; wav2vec's seven make a token of every 20 ms.

    Raises:
        ValueError: if not even one token fits.

    Paper: wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477), section 2.
    """

    def __init__(self, sample_rate_hz: int, seconds: float, convolutions: list[list[int]]) -> None:
        super().__init__(sample_rate_hz, seconds, _BANDS)
        self.convolutions = convolutions
        self.length = round(seconds * sample_rate_hz)
        tokens = _convolved(self.length, convolutions)
        if tokens < 1:
            raise ValueError(f"the convolutions make no token of {seconds} s at {sample_rate_hz} Hz")
        self.grid = (tokens,)

    def load(self, payload: bytes) -> Float32[Tensor, " time"]:
        samples, _ = soundfile.read(io.BytesIO(payload), dtype="float32")
        start = max(0, (len(samples) - self.length) // 2)
        real = torch.from_numpy(samples[start : start + self.length])
        x = torch.zeros(self.length)
        x[: len(real)] = (real - real.mean()) / (real.var(correction=0) + 1e-7).sqrt()
        return x

    def transform(self, x: Tensor, generator: Generator, strength: float) -> Tensor:
        """Start a little later and tilt the spectrum, by the strength; padding stays zero."""
        real = x[: int(_real_samples(x[None]))]
        late, tilt = torch.rand(2, generator=generator).tolist()
        mild = min(strength, 1.0)
        real = real[int(late * mild * min(0.1 * len(real), _LATEST_SECONDS * self.sample_rate_hz)) :]
        real = real + 0.4 * mild * (tilt - 0.5) * functional.pad(real, (1, 0))[:-1]
        variant = torch.zeros_like(x)
        variant[: len(real)] = (real - real.mean()) / (real.var(correction=0) + 1e-7).sqrt()
        return variant

    def draw(self, generator: Generator) -> Float32[Tensor, " time"]:
        return _mark_real(torch.randn(self.length, generator=generator))

    def frontend(self, dim: int) -> nn.Module:
        return _Convolutions(self.convolutions, dim)


class _Frames(nn.Module):
    """Stacks frames to tokens and projects them; a token without a real frame is invalid."""

    def __init__(self, mels: int, frames_per_token: int, dim: int) -> None:
        super().__init__()
        self.frames_per_token = frames_per_token
        self.project = nn.Linear(mels * frames_per_token, dim)

    def forward(self, x: Float[Tensor, "batch frame mel"]) -> Tokens:
        stacked = x.unflatten(1, (-1, self.frames_per_token)).flatten(2)
        # The first token counts even if it is padding: attention over nothing is not a number.
        first = torch.arange(stacked.shape[1], device=x.device) == 0
        return Tokens(self.project(stacked), (stacked != 0).any(dim=2) | first)


class _Convolutions(nn.Module):
    """Convolves samples to tokens; those that begin behind the recording's end are invalid."""

    def __init__(self, shapes: list[list[int]], dim: int) -> None:
        super().__init__()
        self.shapes = shapes
        widths = [1, *(channels for channels, _, _ in shapes)]
        self.layers = nn.ModuleList(
            nn.Conv1d(before, channels, kernel, stride, bias=False)
            for before, (channels, kernel, stride) in zip(widths, shapes, strict=False)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in widths[1:])
        self.norm = nn.LayerNorm(widths[-1])
        self.project = nn.Linear(widths[-1], dim)
        for weight in self.layers.parameters():
            nn.init.kaiming_normal_(weight)

    def forward(self, x: Float[Tensor, "batch time"]) -> Tokens:
        count = _convolved(_real_samples(x), self.shapes).clamp(min=1)
        x = x[:, None]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = functional.gelu(norm(layer(x).transpose(1, 2)).transpose(1, 2))
        tokens = self.project(self.norm(x.transpose(1, 2)))
        return Tokens(tokens, torch.arange(tokens.shape[1], device=x.device) < count[:, None])


Count = TypeVar("Count", int, Tensor)


def _convolved(samples: Count, convolutions: list[list[int]]) -> Count:
    """Count what convolutions leave of so many samples."""
    for _, kernel, stride in convolutions:
        samples = (samples - kernel) // stride + 1
    return samples


def _real_samples(x: Float[Tensor, "batch time"]) -> Int[Tensor, " batch"]:
    """Count the samples up to the last that is not zero, which padding is."""
    place = torch.arange(1, x.shape[1] + 1, device=x.device)
    return (place * (x != 0)).amax(1)


def _is_real(x: Float[Tensor, "frame mel"]) -> Bool[Tensor, " frame"]:
    return (x != 0).any(dim=1)


def _mark_real(frames: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return torch.where(frames == 0, _NOT_ZERO, frames)


def _waveform(samples: Float32[np.ndarray, " time"]) -> str:
    columns, height = 120, 32
    parts = np.array_split(samples / (np.abs(samples).max() or 1), columns)
    tops = [height / 2 * (1 - float(part.max(initial=0))) for part in parts]
    bottoms = [height / 2 * (1 - float(part.min(initial=0))) for part in parts]
    outline = [*enumerate(tops), *reversed(list(enumerate(bottoms)))]
    points = " ".join(f"{x},{y:.1f}" for x, y in outline)
    return (
        f'<svg viewBox="0 0 {columns} {height}" width="{2 * columns}" height="{2 * height}" '
        f'role="img" aria-label="waveform"><polygon points="{points}" fill="currentColor" '
        'stroke="currentColor" stroke-width="0.5"/></svg>'
    )
