import io

import numpy as np
import pytest
import soundfile
import torch
from conftest import tone, wav
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.data.modality import Reject
from winnow.data.speech import _NOT_ZERO, Speech, Waveform

SPEECH = Speech(sample_rate_hz=8000, seconds=0.5, mels=16, frames_per_token=5)
SOUND = tone(300, 0.3)


def encode(samples: np.ndarray, format: str, subtype: str | None = None, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def loaded(samples: np.ndarray, rate: int = 8000) -> torch.Tensor:
    return SPEECH.load(SPEECH.decode(wav(samples, rate)).payload)


def test_a_variant_of_a_long_recording_loses_a_tenth_of_a_second_at_most() -> None:
    """It may be a string of words, of which none is to be lost."""
    waveform = Waveform(sample_rate_hz=8000, seconds=3.0, convolutions=[[8, 10, 5]])
    x = waveform.load(waveform.decode(wav(tone(300, 2.8))).payload)
    variants = [waveform.transform(x, torch.Generator().manual_seed(seed), 1.0) for seed in range(20)]
    lost = [float(x.nonzero().max() - variant.nonzero().max()) / 8000 for variant in variants]
    assert 0.08 < max(lost) <= 0.1

    speech = Speech(sample_rate_hz=8000, seconds=3.0, mels=16, frames_per_token=5)
    x = torch.full((speech.frames, speech.mels), _NOT_ZERO)
    x[:6], x[10:14] = 9.0, 5.0  # a sound of 60 ms, and one behind the first tenth of a second
    starts = []
    for seed in range(40):
        loud = speech.transform(x, torch.Generator().manual_seed(seed), 1.0).amax(1)
        starts.append(bool((loud > 7).any()))
        assert ((loud > 4) & (loud < 7)).any()
    assert not all(starts)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_formats_and_rates_end_as_one_flac(format: str, rate: int):
    decoded = SPEECH.decode(encode(tone(300, 0.3, rate), format, rate=rate))
    samples, kept_rate = soundfile.read(io.BytesIO(decoded.payload))
    assert soundfile.info(io.BytesIO(decoded.payload)).format == "FLAC"
    assert kept_rate == 8000 and samples.ndim == 1
    assert decoded.measures["native_rate_hz"] == rate
    # MP3 codes whole frames and adds the rest of the last one.
    assert decoded.measures["seconds"] == pytest.approx(0.3, abs=0.15 if format == "MP3" else 1e-3)


def test_sixteen_bits_come_back_as_they_were():
    payload = SPEECH.decode(wav(SOUND)).payload
    before, _ = soundfile.read(io.BytesIO(wav(SOUND)), dtype="int16")
    after, _ = soundfile.read(io.BytesIO(payload), dtype="int16")
    assert np.abs(before.astype(int) - after).max() <= 1


def test_stereo_is_mixed_and_too_loud_is_turned_down():
    stereo = np.stack([30 * SOUND, 10 * SOUND], axis=1)
    samples, _ = soundfile.read(io.BytesIO(SPEECH.decode(wav(stereo, subtype="FLOAT")).payload))
    assert np.abs(samples).max() <= 1
    assert np.corrcoef(samples, SOUND)[0, 1] > 0.999


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_recording_is_rejected(format: str, share: float):
    whole = encode(SOUND, format)
    with pytest.raises(Reject):
        SPEECH.decode(whole[: int(len(whole) * share)])


def test_a_wav_that_was_written_to_a_pipe_is_not_truncated():
    raw = bytearray(wav(SOUND))
    at = raw.index(b"data") + 4
    raw[at : at + 4] = b"\xff\xff\xff\xff"
    assert SPEECH.decode(bytes(raw)).measures["seconds"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "0 bytes"),
        (b"RIFF\x00\x00\x00\x00WAVE", "no data chunk"),
        (b"certainly not a recording", "libsndfile"),
        (wav(np.zeros(0)), "no sample"),
        (wav(SOUND[:50]), "less than one window"),
        (wav(np.zeros(4000)), "silence"),
        (wav(np.full(4000, 0.3)), "silence"),
        (wav(np.where(np.arange(4000) == 9, np.nan, 0.1), subtype="FLOAT"), "NaN"),
        (wav(np.where(np.arange(4000) == 9, np.inf, 0.1), subtype="FLOAT"), "infinite"),
        (wav(np.zeros(61 * 8000)), "61 s are longer"),
        (wav(tone(300, 0.3, 44101), 44101), "44101 Hz is no sensible"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_learnt_from_is_rejected_with_a_reason(raw: bytes, reason: str):
    with pytest.raises(Reject, match=reason):
        SPEECH.decode(raw)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broken_bytes_are_rejected_never_a_crash(data: st.DataObject):
    raw = bytearray(encode(SOUND, data.draw(st.sampled_from(["WAV", "FLAC", "OGG", "MP3"]))))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, min(200, len(raw) - 1)))] = data.draw(st.integers(0, 255))
    try:
        SPEECH.decode(bytes(raw))
    except Reject as reject:
        assert str(reject)


@settings(max_examples=40, deadline=None)
@given(seconds=st.floats(0.03, 1.0), gain=st.floats(0.001, 1.0))
def test_real_frames_come_first_and_padding_is_exactly_zero(seconds: float, gain: float):
    x = loaded(gain * tone(300, seconds))
    real = (x != 0).any(dim=1)
    count = min(SPEECH.frames, 1 + round(seconds * 8000) // 80)
    assert real.tolist() == [True] * count + [False] * (SPEECH.frames - count)
    # A token is valid as soon as it holds one real frame.
    valid = SPEECH.frontend(4)(x[None]).valid[0]
    assert valid.sum() == -(-count // SPEECH.frames_per_token)


def test_level_and_offset_do_not_reach_the_model():
    quiet = loaded(0.1 * SOUND + 0.2)
    assert torch.allclose(loaded(SOUND), quiet, atol=0.15)


def test_a_long_recording_gives_its_middle():
    long = np.concatenate([np.zeros(4000), tone(300, 0.5), np.zeros(4000)])
    assert (loaded(long).mean(dim=1) > -1).all()


def test_transform_keeps_padding_zero_and_frames_real():
    x = loaded(SOUND)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        variant = SPEECH.transform(x, generator, 1.0)
        real = (variant != 0).any(dim=1)
        count = int(real.sum())
        assert variant.shape == x.shape and not torch.equal(variant, x)
        assert 0.9 * 0.9 * 31 - 1 <= count <= 1.11 * 31 and real[:count].all()


def test_a_variant_speaks_faster_or_slower_with_another_vocal_tract():
    x = torch.zeros(SPEECH.frames, SPEECH.mels)
    x[:30] = _NOT_ZERO
    x[10:20, 8] = 5.0  # a tone, from a third to two thirds
    ends, places = [], []
    for seed in range(40):
        variant = SPEECH.transform(x, torch.Generator().manual_seed(seed), 2.0)
        strong = variant - variant.median(dim=1, keepdim=True).values
        ends.append(int((variant != 0).any(1).sum()))
        places.append(int(strong.sum(0).argmax()))
    assert min(ends) < 27 and max(ends) > 32
    assert min(places) < 8 < max(places)


def test_at_no_strength_a_variant_is_the_recording():
    x = loaded(SOUND)
    assert torch.allclose(SPEECH.transform(x, torch.Generator().manual_seed(0), 0.0), x, atol=1e-5)


def test_frames_are_stacked_in_order():
    x = torch.zeros(1, SPEECH.frames, SPEECH.mels)
    x[0, 12] = 1  # of the third token
    tokens = SPEECH.frontend(4)(x)
    assert tokens.valid[0].nonzero().ravel().tolist() == [0, 2]


def test_measures_are_of_the_recording_as_it_came():
    stereo = np.stack([tone(300, 0.3, 16000), tone(300, 0.3, 16000, seed=1)], axis=1)
    found = SPEECH.decode(wav(stereo, 16000)).measures
    assert found["channels"] == 2 and found["native_rate_hz"] == 16000
    assert found["seconds"] == pytest.approx(0.3)


def test_equal_sounds_are_identical_whatever_the_file_and_others_are_not():
    def identity(raw: bytes) -> bytes:
        return SPEECH.identity(SPEECH.decode(raw).payload)

    pcm = np.round(SOUND * 32767).astype(np.int16)
    same = {identity(encode(pcm, "WAV")), identity(encode(pcm, "FLAC"))}
    assert len(same) == 1 and len(same.pop()) == 16
    changed = SOUND.copy()
    changed[100] += 0.01
    assert identity(wav(changed)) != identity(wav(SOUND))


def test_copies_that_sound_the_same_share_a_signature_and_other_sounds_do_not():
    def signature(raw: bytes) -> np.ndarray:
        return SPEECH.signature(SPEECH.decode(raw).payload)

    random = np.random.default_rng(0)
    sounds = [
        tone(h, s, rise=r) for h, s, r in zip((200, 300, 450), (0.3, 0.5, 4), (1, -0.4, 0.05), strict=True)
    ]
    found = [signature(wav(sound)) for sound in sounds]
    for sound, own in zip(sounds, found, strict=True):
        noise = random.normal(0, 0.01 * sound.std(), len(sound))
        assert (signature(encode(0.5 * sound, "FLAC")) == own).mean() >= Speech.min_agreement
        for copy in (encode(0.7 * sound, "OGG"), wav(0.8 * sound + noise)):
            assert (signature(copy) == own).mean() > 0.9  # tones have fewer true bits than speech
    assert all((a == b).mean() < 0.8 for i, a in enumerate(found) for b in found[:i])
    assert all(own.shape == (144,) for own in found)


def test_a_preview_plays_short_recordings_only():
    short = SPEECH.preview(SPEECH.decode(wav(SOUND)).payload)
    noise = np.random.default_rng(0).uniform(-1, 1, 20 * 8000)
    long = SPEECH.preview(SPEECH.decode(wav(noise)).payload)
    assert "<svg" in short and "data:audio/flac;base64," in short
    assert "<svg" in long and "<audio" not in long


def test_a_window_without_a_token_is_refused():
    with pytest.raises(ValueError, match="no token"):
        Speech(sample_rate_hz=8000, seconds=0.01, mels=16, frames_per_token=5)


# --- as they are --------------------------------------------------------------------------------

WAVEFORM = Waveform(sample_rate_hz=8000, seconds=0.5, convolutions=[[8, 10, 5], [8, 3, 2], [8, 2, 2]])


def test_a_waveform_is_the_recording_of_mean_0_and_variance_1_with_silence_behind_it():
    x = WAVEFORM.load(WAVEFORM.decode(wav(SOUND)).payload)
    real = x[: len(SOUND)]
    assert x.shape == (4000,) and not x[len(SOUND) :].any()
    assert abs(float(real.mean())) < 1e-4 and float(real.var()) == pytest.approx(1, abs=1e-3)
    assert np.corrcoef(real.numpy(), SOUND)[0, 1] > 0.999


def test_the_middle_of_a_longer_recording_is_read_as_it_is():
    long = tone(300, 0.9)
    x = WAVEFORM.load(WAVEFORM.decode(wav(long)).payload).numpy()
    assert np.corrcoef(x, long[1600:5600])[0, 1] > 0.999


def test_tokens_of_a_waveform_end_where_the_recording_ends():
    whole, part = (WAVEFORM.load(WAVEFORM.decode(wav(tone(300, s))).payload) for s in (0.5, 0.25))
    tokens = WAVEFORM.frontend(16)(torch.stack([whole, part]))
    assert tokens.x.shape == (2, *WAVEFORM.grid, 16)
    alone = Waveform(sample_rate_hz=8000, seconds=0.25, convolutions=WAVEFORM.convolutions)
    assert tokens.valid.sum(1).tolist() == [*WAVEFORM.grid, *alone.grid]


def test_a_variant_of_a_waveform_is_another_start_and_tilt_of_the_same():
    x = WAVEFORM.load(WAVEFORM.decode(wav(SOUND)).payload)
    one, same, other = (WAVEFORM.transform(x, torch.Generator().manual_seed(s), 1.0) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    left = int((one != 0).nonzero().max()) + 1
    assert 0.9 * len(SOUND) <= left <= len(SOUND) and not one[left:].any()
    assert float(one[:left].var()) == pytest.approx(1, abs=1e-3)
    assert np.corrcoef(one[:left], SOUND[len(SOUND) - left :])[0, 1] > 0.95


def test_refuses_recordings_that_are_shorter_than_a_token():
    with pytest.raises(ValueError, match=r"no token of 0\.001 s"):
        Waveform(sample_rate_hz=8000, seconds=0.001, convolutions=[[8, 10, 5]])
