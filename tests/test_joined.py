import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import wav

from winnow.data.sources.joined import Joined
from winnow.data.sources.records import Record, Source

RATE = 8000
TAKES = 3  # recordings of a word by a speaker


class Listed(Source):
    """Records from a list."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def records(self, raw: Path, suffixes: frozenset[str]) -> Iterator[Record]:
        yield from self._records


def sound(speaker: int, word: int, take: int, seconds: float = 0.1) -> np.ndarray:
    """Noise that no other word, take or speaker has; with an offset."""
    random = np.random.default_rng([speaker, word, take])
    noise = random.normal(0, 0.1, round(seconds * RATE))
    return noise - noise.mean() + 0.05


def words(**changed: Any) -> list[Record]:
    return [
        Record(f"{s}-{w}-{t}.wav", wav(sound(s, w, t)), None, str(w), None, f"s{s}")._replace(**changed)
        for s in range(2)
        for w in range(4)
        for t in range(TAKES)
    ]


def joined(records: list[Record], **changed: Any) -> list[Record]:
    settings: dict[str, Any] = {
        "strings": 40,
        "length": (1, 4),
        "silence_seconds": (0.02, 0.05),
        "max_seconds": 2.0,
        "sample_rate_hz": RATE,
        "texts": {"0": "zero"},
    }
    return list(Joined(Listed(records), **{**settings, **changed}).records(Path("raw"), frozenset()))


def heard(record: Record) -> list[tuple[int, int, int]]:
    """Find which recordings stand in a string, in order."""
    samples, rate = soundfile.read(io.BytesIO(record.raw))
    assert rate == RATE
    places = {}
    for speaker in range(2):
        for word in range(4):
            for take in range(TAKES):
                pattern = sound(speaker, word, take) - 0.05
                match = np.correlate(samples, pattern) / (pattern @ pattern)
                places |= dict.fromkeys(np.flatnonzero(match > 0.9).tolist(), (speaker, word, take))
    return [places[at] for at in sorted(places)]


def test_the_target_tells_the_words_in_their_order_all_by_one_speaker() -> None:
    for record in joined(words()):
        found = heard(record)
        assert record.target == " ".join("zero" if word == 0 else str(word) for _, word, _ in found)
        assert {f"s{speaker}" for speaker, _, _ in found} == {record.group}
        assert (record.label, record.split, record.reason) == (None, None, None)


def test_lengths_are_as_asked_and_speakers_have_strings_by_their_words() -> None:
    few = [record for record in words() if record.group == "s0" or record.source.endswith("-0.wav")]
    found = joined(few, strings=200)
    assert Counter(record.group for record in found) == {"s0": 150, "s1": 50}
    lengths = Counter(len(record.target.split()) for record in found)
    assert set(lengths) == {1, 2, 3, 4} and min(lengths.values()) > 25
    assert len({record.source for record in found}) == 200


def test_each_recording_is_used_before_one_is_used_again() -> None:
    used = [one for record in joined(words(), strings=60) if record.group == "s0" for one in heard(record)]
    recordings = 4 * TAKES
    for start in range(0, len(used) - recordings, recordings):
        assert len(set(used[start : start + recordings])) == recordings


def test_silence_stands_around_each_word_and_offsets_do_not_click() -> None:
    record = joined(words(), strings=2, length=(3, 3))[0]
    samples, _ = soundfile.read(io.BytesIO(record.raw))
    silent = np.flatnonzero(np.abs(samples) < 1e-3)
    runs = [run for run in np.split(silent, np.flatnonzero(np.diff(silent) > 1) + 1) if len(run) > 20]
    assert len(runs) == 4
    assert all(0.02 * RATE - 4 <= len(run) <= 0.05 * RATE + 8 for run in runs)


def test_no_string_is_longer_than_asked() -> None:
    found = joined(words(), max_seconds=0.4)
    seconds = [soundfile.info(io.BytesIO(record.raw)).duration for record in found]
    assert max(seconds) <= 0.4
    assert {len(record.target.split()) for record in found} == {1, 2}


def test_splits_of_the_words_are_kept() -> None:
    records = [r._replace(split="test" if r.source.endswith("-0.wav") else "train") for r in words()]
    found = joined(records, strings=100)
    assert {record.split for record in found} == {"train", "test"}
    for record in found:
        assert {take == 0 for _, _, take in heard(record)} == {record.split == "test"}


def test_a_string_is_the_same_in_every_run_and_another_by_another_seed() -> None:
    assert joined(words(), seed=1) == joined(words(), seed=1)
    assert joined(words(), seed=1) != joined(words(), seed=2)


def test_words_that_cannot_be_used_are_rejects_beside_the_strings() -> None:
    bad = [
        Record("a", None, "gone", "1", None, "s0"),
        Record("b", b"RIFF", None, "1", None, "s0"),
        Record("c", wav(sound(0, 0, 0)), None, None, None, "s0"),
        Record("d", wav(sound(0, 0, 0, seconds=3)), None, "1", None, "s0"),
    ]
    found = [record for record in joined([*bad, *words()]) if record.raw is None]
    assert [record.source for record in found] == ["a", "b", "c", "d"]
    reasons = [str(record.reason) for record in found]
    assert reasons[0] == "gone" and "what is said" in reasons[2] and "longer than max_seconds 2" in reasons[3]


def test_lengths_and_silences_make_sense() -> None:
    with pytest.raises(ValueError, match=r"length must be .* not \(0, 2\)"):
        joined([], length=(0, 2))
    with pytest.raises(ValueError, match=r"silence_seconds must be .* not \(0.2, 0.1\)"):
        joined([], silence_seconds=(0.2, 0.1))
